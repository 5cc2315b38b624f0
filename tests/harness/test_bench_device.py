"""bench device at toy size on a CPU: every part end to end, the budget, what fails or is missing,
and that wrong code is not timed.
"""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from fast import transformer
from harness import cli
from harness.bench import apart, attention, components, device, first, gate, levers, measure
from harness.errors import Stopped
from reference.recipe import GOLF
from tests.bugs import optimizer, plant
from tests.harness.test_bench import FIELDS
from tests.support.commands import refused

ROW = FIELDS | {"note", "seconds"}
TIMED = measure.row("timed", 2.0, 1.0, 2.0, 2.0, 2.0, 1, "ms")


@pytest.fixture
def ungated(monkeypatch):
    """Parity has tests of its own and takes seconds: every piece agrees."""
    monkeypatch.setattr(gate, "examined", lambda *arguments: [])


@pytest.fixture
def toy(tmp_path) -> device.Bench:
    """Return the bench of --smoke, nothing compiled."""
    return device.Bench(device.SMOKE_SIZES, "cpu", False, 1, tmp_path)


def test_smoke_measures_every_part(ungated, tmp_path, capsys):
    """Rows of one shape under names of their own, nothing failed, and a file that bench compare
    reads.
    """
    file = tmp_path / "rows.json"
    assert (
        cli.main(
            ["bench", "device", "--smoke", "--no-compiled", "--pairs", "2", "--json", str(file)]
        )
        == 0
    )
    rows = json.loads(file.read_text())
    names = [each["name"] for each in rows]
    assert all(set(each) == ROW for each in rows) and len(set(names)) == len(names)
    measured = [each for each in rows if each["note"] is None]
    timed = [each for each in measured if each["ratio"] is not None]
    assert all(
        each["low"] <= each["ratio"] <= each["high"]
        and min(each["baseline"], each["candidate"]) > 0
        for each in timed
    )
    assert all(each["candidate"] > 0 for each in measured)
    assert all(each["ratio"] is None for each in rows if each not in timed)
    said = [each["note"] for each in rows[1:] if each["note"]]
    assert all(note.startswith("not available") or note == device.AGREES for note in said)
    assert [f"parity: {piece}" for piece in gate.names_of()] == [
        name for name in names if name.startswith("parity")
    ]
    assert (
        names[:4] == ["device", "matrix product", "copy", "attention, heads of 6: flash"]
        and names[9] == "a toy step, compiled"
    )
    wanted = [
        "training tokens/s: production / plain",
        "a step / its data and noise",
        "forward, one micro-batch",
        "backward, one micro-batch",
        "update",
        "training step: share of the matrix rate",
        "Newton-Schulz: production / plain",
        "Adam: production / plain",
        "clip: production / plain",
        "EMA: production / plain",
        "clip: share of the memory floor",
        "EMA: share of the memory floor",
        "attention 8 x 6: default, grouped / default",
        "attention 8 x 6: flash / default",
        "attention 6 x 8: math / default",
        "attention 6 x 8 / 8 x 6",
        "muon, toy shapes: ours / torch.optim.Muon",
        "NELBO tokens/s: production / eager",
        "chain left-to-right / full forward passes",
        "lever: sums in any order",
        "lever: flash attention",
        "lever: deterministic attention",
        "lever: 6 query and 3 key/value heads",
        "lever: micro-batches of half the tokens",
        "lever: micro-batches of twice the tokens",
    ]
    assert set(wanted) <= {each["name"] for each in timed}
    assert {
        "peak memory of a step: production / plain",
        "lever: max-autotune",
        "lever: CUDA graphs",
    } <= set(names)
    assert "lever: sums in any order" in capsys.readouterr().out
    assert cli.main(["bench", "compare", str(file), str(file), "--json", "-"]) == 0
    both = json.loads(capsys.readouterr().out)["rows"]
    assert [each["overlap"] for each in both] == [True if each in timed else None for each in rows]


def test_what_red_parity_proves_nothing_of_is_marked(monkeypatch, tmp_path):
    """A bug in the clip: exit 1; the timings that rest on it keep their numbers and lose their
    ratio, the others are claims.
    """
    plant(next(bug for bug in optimizer.BUGS if "clip" in bug.caught_by), monkeypatch)
    right = gate.examined
    monkeypatch.setattr(
        gate, "examined", lambda name, *rest: right(name, *rest) if name == "clip" else []
    )
    file = tmp_path / "rows.json"
    options = (
        "--smoke",
        "--no-compiled",
        "--pairs",
        "1",
        "--parts",
        "update",
        "muon",
        "--json",
        str(file),
    )
    assert cli.main(["bench", "device", *options]) == 1
    rows = {each["name"]: each for each in json.loads(file.read_text())}
    assert rows["parity: clip"]["note"].startswith(
        "failed: parity is red: clip (algorithm, float64: error"
    )
    assert "see maskgolf parity clip --device cpu" in rows["parity: clip"]["note"]
    adam = rows["Adam: production / plain"]
    assert adam["note"] == "unproven: parity of clip is red" and adam["candidate"] > 0
    assert adam["ratio"] is adam["low"] is adam["high"] is None
    assert rows["muon, toy shapes: ours / torch.optim.Muon"]["ratio"] > 0


def test_without_a_verdict_nothing_is_claimed():
    """A part whose pieces were never compared, since parity was cut off."""
    record = device.Record("cpu", lambda rows: None)
    record.add("attention", "attention", TIMED)
    record.add("muon", "muon", TIMED)
    assert [each["ratio"] for each in record.rows] == [2.0, None]
    assert record.rows[1]["note"] == "unproven: parity of newton-schulz has no result"


def test_what_comes_first_is_compared(toy, monkeypatch):
    """A graph, masks and a step that compute something else are failures; right ones are
    numbers.
    """
    assert [job()["note"] for _, job in list(device.beginnings(toy))[-3:]] == [
        first.NOT_COMPILED
    ] * 3
    monkeypatch.setattr(toy, "compiled", True)
    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    found = dict(device.beginnings(toy))
    for name in ("a graph compiles", "masks, compiled", "a toy step, compiled"):
        assert found[name]()["candidate"] > 0, name
    none_BL = torch.zeros(first.ROWS, device.TOY.length, dtype=torch.bool)
    monkeypatch.setattr(first.masking, "mask", lambda *arguments: none_BL)
    note = found["masks, compiled"]()["note"]
    assert note.startswith("failed: ") and "differ from the reference" in note
    monkeypatch.setattr(
        torch, "compile", lambda function, **settings: lambda *arguments: 1.5 * function(*arguments)
    )
    assert found["a graph compiles"]()["note"].startswith("failed: ")


def test_a_toy_step_that_strays_is_seen(toy, monkeypatch):
    """The compiled side alone computes other gradients."""
    monkeypatch.setattr(toy, "compiled", True)
    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    right, asked = components.flat, []

    def wrong(way):
        asked.append(way)
        return (1.1 if len(asked) == 3 else 1.0) * right(way)

    monkeypatch.setattr(components, "flat", wrong)
    found = dict(device.beginnings(toy))["a toy step, compiled"]()
    assert found["note"].startswith("failed: loss and gradients differ by 0 and 0.1 from")


def test_impossible_settings_are_refused(capsys):
    assert "--budget: expected at least 1, found 0" in refused(
        capsys, "bench", "device", "--smoke", "--budget", "0"
    )


# the budget


def parts(monkeypatch, **jobs):
    """Let these be all the parts: name -> list of functions."""
    made = {
        part: lambda bench, part=part, each=each: (
            (f"{part} {i}", run) for i, run in enumerate(each)
        )
        for part, each in jobs.items()
    }
    monkeypatch.setattr(device, "PARTS", made)


def measured(toy, parts, budget, on_row=lambda rows: None):
    """Return the rows of some parts, measured in this process within so many seconds."""
    finish = partial(device.finished, toy)
    return device.measured("cpu", parts, time.monotonic() + budget, on_row, finish)


def forever():
    """Wait as a compiler does that catches every exception."""
    while True:
        try:
            time.sleep(60)
        except Exception:
            continue


def test_budget_cuts_off_and_says_so(monkeypatch, toy):
    """What was measured stays, what was not is named, and every row was handed on as soon as it was
    known.
    """
    parts(
        monkeypatch,
        first=[lambda: TIMED],
        second=[lambda: TIMED, forever, lambda: TIMED],
        third=[lambda: TIMED],
    )
    seen = []
    keep = lambda rows: seen.append([each["name"] for each in rows])  # noqa: E731
    rows = measured(toy, ("first", "second", "third"), 3.0, keep)
    names = ["first 0", "second 0", "second: the rest", "third: the rest"]
    assert [each["name"] for each in rows] == names and seen == [names[: i + 1] for i in range(4)]
    assert [each["note"] for each in rows] == [None, None] + [
        "skipped: the time budget is used up"
    ] * 2
    assert rows[1]["ratio"] == 2.0 and rows[2]["ratio"] is None and not device.failed(rows)


def test_a_part_that_hangs_leaves_time_to_the_others(monkeypatch, toy):
    """It stops at its share of the budget, which is a failure; the next part is measured."""
    parts(monkeypatch, step=[lambda: TIMED, forever], last=[lambda: TIMED])
    monkeypatch.setattr(device, "SHARES", {"step": 0.01})
    monkeypatch.setattr(device, "RESTS", {})
    rows = measured(toy, ("step", "last"), 60)
    assert [(each["name"], each["note"]) for each in rows] == [
        ("step 0", None),
        ("step: the rest", "failed: stopped after 1 s"),
        ("last 0", None),
    ]
    assert device.failed(rows) == [rows[1]]


def test_parity_counts_towards_the_budget(monkeypatch, toy):
    """Without its end nothing is claimed, and the command fails."""
    parts(monkeypatch, parity=[forever], muon=[lambda: TIMED])
    monkeypatch.setattr(device, "SHARES", {})
    rows = measured(toy, ("parity", "muon"), 0.2)
    assert [each["note"] for each in rows] == [
        "failed: the time budget is used up; raise --budget",
        device.SKIPPED,
    ]
    assert device.failed(rows) == rows[:1]


def test_deadline_gives_the_alarm_back():
    """A handler and a timer that were there before are there again, the timer less what has
    passed.
    """
    heard = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    earlier = signal.setitimer(signal.ITIMER_REAL, 30)
    try:
        with pytest.raises(device.OutOfTime), device.deadline(0.05):
            forever()
        with device.deadline(60):
            pass
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left < 29.96
        signal.raise_signal(signal.SIGALRM)
        assert heard == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, *earlier)
        signal.signal(signal.SIGALRM, before)


def broken():
    """Fail as a kernel does."""
    raise RuntimeError("CUDA error: an illegal memory access\nmore lines")


def test_failures_are_rows_and_the_rest_goes_on(ungated, monkeypatch, capsys):
    """A job that raises, a part that cannot begin; exit 1, since something was not measured."""

    def cannot_begin(bench):
        raise torch.OutOfMemoryError("no room")
        yield

    parts(monkeypatch, first=[broken, lambda: TIMED])
    monkeypatch.setitem(device.PARTS, "step", cannot_begin)
    monkeypatch.setattr(device, "RESTS", {})
    assert cli.main(["bench", "device", "--smoke", "--no-compiled", "--json", "-"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [(each["name"], each["note"]) for each in rows] == [
        ("first 0", "failed: RuntimeError: CUDA error: an illegal memory access"),
        ("first 1", None),
        ("step: the rest", "failed: OutOfMemoryError: no room"),
    ]


def test_interrupt_shows_what_is_known(monkeypatch, toy):
    def interrupted():
        raise KeyboardInterrupt

    parts(monkeypatch, first=[lambda: TIMED, interrupted])
    with pytest.raises(Stopped) as stopped:
        measured(toy, ("first",), 60)
    assert [each["name"] for each in stopped.value.result] == ["first 0"]


# what is compared


def test_six_heads_of_96_keep_every_matrix():
    """8 x 72 = 6 x 96 and 4 x 72 = 3 x 96: all matrices keep their shape, each layer loses the
    gains of two query heads.
    """
    other = levers.other_heads(GOLF).model
    assert (other.heads, other.kv_heads) == (6, 3) and attention.same_matrices(GOLF.model, other)
    sizes = [
        sum(torch.Size(shape).numel() for shape in transformer.shapes(model).values())
        for model in (GOLF.model, other)
    ]
    assert sizes == [19_190_656, 19_190_656 - 2 * GOLF.model.layers]
    assert not attention.same_matrices(GOLF.model, replace(other, kv_heads=2))


def test_wrong_attention_is_not_timed(monkeypatch):
    """Another scale, a gradient that is dropped; a kernel that is missing is not wrong."""
    given = attention.inputs(device.TOY, 2, "cpu", torch.float32)
    right = attention.attend
    assert attention.trouble(given, None, True) is attention.trouble(given, "math") is None
    for wrong in (
        lambda q, k, v, *rest: right(1.01 * q, k, v, *rest),
        lambda q, k, v, *rest: right(q, k.detach() + 0 * k, v, *rest),
    ):
        monkeypatch.setattr(attention, "attend", wrong)
        found = attention.compared("x", given, lambda: pytest.fail("timed"), None, False, 1, "cpu")
        assert found["note"].startswith("failed: its error is") and found["ratio"] is None
    monkeypatch.setattr(attention, "attend", right)
    assert attention.compared("x", given, broken, "cudnn", False, 1, "cpu")["note"].startswith(
        "not available: No"
    )
    monkeypatch.setattr(attention, "attend", lambda *arguments: broken())
    with pytest.raises(RuntimeError, match="illegal"):
        attention.compared("x", given, broken, None, False, 1, "cpu")


def test_lever_that_changes_the_step_is_not_timed(toy):
    """Gradients of another network are not those of the production step; 0 is no error of its own
    gradients.
    """
    base = components.flat(toy.production)
    wrong = levers.Lever(
        "another seed", recipe=lambda recipe: replace(recipe, seed=recipe.seed + 1)
    )
    found = device.pulled(toy, wrong, "lever", base, 2 * components.BFLOAT16)
    assert found["note"].startswith("failed: its gradients stray by") and found["ratio"] is None
    assert device.pulled(toy, levers.Lever("nothing"), "lever", base, 1e-12)["ratio"] > 0
    absent = device.pulled(
        toy, levers.Lever("absent", options={"triton.no_such_option": 1}), "lever", base, 1.0
    )
    assert "has no option triton.no_such_option" in absent["note"]


def test_both_ways_compute_the_same_gradients(toy):
    """Plain and production from one state: bfloat16 rounding of the activations apart, the same
    loss and gradients; parts add up.
    """
    quick, plainly = toy.production, toy.plain
    assert (
        components.distance(components.flat(plainly), components.flat(quick))
        <= 2 * components.BFLOAT16
    )
    micros = quick.data()
    shares = [float(quick.forward(micro).detach()) for micro in micros]
    assert sum(shares) == pytest.approx(float(quick.gradients()[0]), rel=1e-6)
    assert float(plainly.forward(micros[0]).detach()) / len(micros) == pytest.approx(
        shares[0], rel=2 * components.BFLOAT16
    )


@pytest.fixture
def compiled_with(monkeypatch) -> list[dict]:
    """Return the options of every graph that reaches the compiler under a lever; the graph then
    runs as it is.
    """
    options = []

    def compile_fx(graph, examples, config_patches):
        options.append(config_patches)
        return graph.forward

    monkeypatch.setattr(levers, "compile_fx", compile_fx)
    return options


def test_every_lever_compiles_anew(compiled_with):
    """The same function under two levers reaches the compiler twice, with the options of each, and
    the first graph stays its own.
    """

    def double(x):
        return 2 * x

    made = []
    for option in ({"a": 1}, {"b": 2}):
        with levers.pulled(levers.Lever("x", options=option)):
            made.append(torch.compile(double, dynamic=False))
            assert made[-1](torch.ones(3)).tolist() == [2, 2, 2]
    assert made[0](torch.ones(3)).tolist() == [2, 2, 2] and compiled_with == [{"a": 1}, {"b": 2}]


def test_the_chosen_kernel_is_the_only_one():
    """Inside the lever's context; outside all are allowed again."""
    enabled = torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.math_sdp_enabled
    outside = [each() for each in enabled]
    with levers.LEVERS[2].context():
        assert [each() for each in enabled] == [
            True,
            False,
        ] and torch.are_deterministic_algorithms_enabled()
    assert [each() for each in enabled] == outside == [True, True]


def test_levers_of_attention_and_graphs(toy, monkeypatch):
    """Errors instead of warnings while attention must repeat, as before afterwards; what a graph
    returns is copied at once.
    """
    lever = next(lever for lever in levers.LEVERS if lever.name == "deterministic attention")
    with lever.context():
        assert (
            not torch.is_deterministic_algorithms_warn_only_enabled()
            and not torch.backends.cuda.math_sdp_enabled()
        )
    assert not torch.are_deterministic_algorithms_enabled()
    lever = next(lever for lever in levers.LEVERS if lever.name == "CUDA graphs")
    assert device.pulled(toy, lever, "lever", None, 1.0)["note"] == "not available: only on cuda"
    plainly = components.flat(toy.production)
    way = components.Production(toy.recipe, toy.batch_of(toy.recipe), "cpu", False, lever.context)
    assert torch.equal(components.flat(way), plainly)


# processes of their own


@pytest.mark.slow
def test_what_dies_or_hangs_takes_nothing_with_it(monkeypatch, tmp_path):
    """Jobs that raise, abort, break the device and hang: every other row is there, at once in the
    file, and the command exits 1.
    """
    monkeypatch.setattr(
        apart,
        "command",
        lambda request: [sys.executable, "-m", "tests.support.planted", json.dumps(request)],
    )
    monkeypatch.setattr(apart, "GRACE", 0.2)
    monkeypatch.setattr(device, "PARTS", dict.fromkeys(("first", "step", "muon")))
    monkeypatch.setattr(device, "SHARES", {"step": 0.2})
    monkeypatch.setattr(device, "RESTS", {})
    file = tmp_path / "rows.json"
    options = (
        "--smoke",
        "--no-compiled",
        "--separate",
        "yes",
        "--budget",
        "100",
        "--json",
        str(file),
    )
    assert cli.main(["bench", "device", *options]) == 1
    rows = json.loads(file.read_text())
    assert all(set(each) == ROW for each in rows)
    assert [each["name"] for each in rows] == [
        "fine",
        "raises",
        "aborts",
        "fine again",
        "breaks the device",
        "fine at last",
        "before",
        "step: the rest",
        "after",
    ]
    notes = [each["note"] for each in rows]
    assert [i for i, note in enumerate(notes) if note is None] == [0, 3, 5, 6, 8]
    assert notes[1] == "failed: ValueError: planted" and notes[7] == "failed: stopped after 20 s"
    assert notes[2].startswith("failed: the process ended by SIGABRT")
    assert notes[4] == "failed: RuntimeError: CUDA error: planted"
    assert len(device.failed(rows)) == 4


def script(*lines, then="") -> list[str]:
    """Return a command that writes some lines as a part's process does, and then something else."""
    code = "import json, sys, time\nfile = open(json.loads(sys.argv[1])['file'], 'a')\n"
    code += (
        "".join(f"file.write({json.dumps(line) + chr(10)!r})\n" for line in lines)
        + "file.flush()\n"
        + then
    )
    return [sys.executable, "-c", code]


def apart_with(folder, monkeypatch, command, budget=30.0, on_row=lambda rows: None):
    """Return the rows of one part measured by a command in place of a process of ours."""
    monkeypatch.setattr(apart, "command", lambda request: [*command, json.dumps(request)])
    settings = apart.Settings("cpu", True, False, 1, str(folder))
    finish = partial(apart.finished, settings, lambda text: None)
    return device.measured("cpu", ("attention",), time.monotonic() + budget, on_row, finish)


DONE = {"name": "a", "row": TIMED}


def test_a_process_that_says_nothing_more_is_killed(monkeypatch, tmp_path):
    """At the end of the budget and its grace; what it had written stays."""
    monkeypatch.setattr(apart, "GRACE", 0.1)
    monkeypatch.setattr(device, "SHARES", {})
    rows = apart_with(
        tmp_path,
        monkeypatch,
        script({"begun": "a"}, DONE, {"begun": "b"}, then="time.sleep(600)"),
        budget=1.0,
    )
    assert [(each["name"], each["note"]) for each in rows] == [
        ("a", None),
        ("attention: the rest", device.SKIPPED),
    ]


def test_a_process_that_cannot_begin_is_not_begun_again(monkeypatch, tmp_path):
    """Its last words are in the note."""
    rows = apart_with(tmp_path, monkeypatch, script(then="sys.exit('no such thing')"))
    assert [(each["name"], each["note"]) for each in rows] == [
        ("attention: the rest", "failed: the process ended by exit code 1: no such thing")
    ]


def test_interrupt_ends_the_process_and_shows_what_is_known(monkeypatch, tmp_path):
    started = []
    right = subprocess.Popen

    def popen(*arguments, **settings):
        started.append(right(*arguments, **settings))
        return started[-1]

    def interrupt(rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(apart.subprocess, "Popen", popen)
    with pytest.raises(Stopped) as stopped:
        apart_with(tmp_path, monkeypatch, script(DONE, then="time.sleep(600)"), on_row=interrupt)
    assert [each["name"] for each in stopped.value.result] == ["a"]
    assert [process.poll() for process in started] == [-signal.SIGKILL]


# the machine


def test_machine_names_the_gpu_and_its_driver(monkeypatch):
    """As nvidia-smi says it, or unknown."""
    said = subprocess.CompletedProcess([], 0, stdout="580.159.04\n")
    monkeypatch.setattr(measure.subprocess, "run", lambda *arguments, **settings: said)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert measure.machine("cuda").startswith("NVIDIA H100 80GB HBM3, driver 580.159.04, CUDA ")

    def absent(*arguments, **settings):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(measure.subprocess, "run", absent)
    assert measure.driver() == "unknown" and "Python 3." in measure.machine("cpu")


def test_peak_memory_asks_the_device(monkeypatch):
    """None on a CPU; on a GPU what was allocated at most while the step ran, its queue drained."""
    assert device.peak(broken, "cpu") is None
    calls = []
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: calls.append(name))
    monkeypatch.setattr(
        torch.cuda,
        "max_memory_allocated",
        lambda device: calls.append("read") or 3 * components.MIB,
    )
    assert device.peak(lambda: calls.append("run"), "cuda") == 3 * components.MIB
    assert calls == ["synchronize", "reset_peak_memory_stats", "run", "synchronize", "read"]
    way = type("Way", (), {"step": None})
    ((_, job),) = components.of_memory(way, way, lambda run: 3 * components.MIB)
    assert (job()["baseline"], job()["ratio"]) == (3.0, 1.0)


def test_gpu_code_is_where_it_belongs():
    """Everything that only a GPU runs is in measure.py and device.peak: the smoke run covers the
    rest.
    """
    folder = Path(device.__file__).parent
    assert sorted(
        path.name for path in folder.glob("*.py") if "torch.cuda" in path.read_text()
    ) == ["device.py", "measure.py"]


def test_a_lever_changes_productions_options_and_keeps_the_others(compiled_with):
    """On a GPU production compiles under options of its own: a lever's come on top."""
    with levers.pulled(levers.Lever("library", options={"max_autotune_gemm": False})):
        own = {"max_autotune_gemm": True, "epilogue_fusion_first": True}
        assert torch.compile(lambda x: x + 1, options=own)(torch.ones(2)).tolist() == [2.0, 2.0]
        assert torch.compile(lambda x: x + 2, options={})(torch.ones(2)).tolist() == [3.0, 3.0]
    assert compiled_with == [
        {"max_autotune_gemm": False, "epilogue_fusion_first": True},
        {"max_autotune_gemm": False},
    ]
