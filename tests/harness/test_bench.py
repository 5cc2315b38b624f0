"""Benchmarks and partial evaluations: the shape of what they print, designs without bias, files
that merge to the last digit.
"""

import itertools
import json
import os
import signal

import numpy as np
import pytest

import reference.likelihood
from fast.evaluate import Part, measure
from harness import cli, errors
from harness.bench import designs, likelihood
from harness.corpus.sources import Source
from harness.evaluation import partial, scoring
from reference.recipe import InputError, Plan
from tests.support.commands import refused
from tests.support.table_model import TableModel

FIELDS = {"name", "baseline", "candidate", "ratio", "low", "high", "pairs", "unit", "machine"}
HEADER = {
    "estimator": "chain",
    "order": "random",
    "run": "somewhere",
    "artifact_sha256": "0",
    "positions": None,
}


# benchmarks


def test_bench_prints_its_frozen_rows(run_directory, capsys):
    """SPEC section 13: the same fields in every row; every ratio lies in its interval and says how
    many times better the candidate is.
    """
    options = [
        "--repetitions",
        "8",
        "--windows",
        "2",
        "--pairs",
        "3",
        "--no-compiled",
        "--json",
        "-",
    ]
    assert cli.main(["bench", "likelihood", str(run_directory), *options]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert (
        all(set(row) == FIELDS for row in rows)
        and len({row["name"] for row in rows}) == len(rows) == 9
    )
    for row in rows:
        assert (
            row["low"] <= row["ratio"] <= row["high"] and min(row["baseline"], row["candidate"]) > 0
        ), row
        if row["unit"].startswith("(nats"):
            assert row["ratio"] == pytest.approx(row["baseline"] / row["candidate"], rel=1e-12)
    assert cli.main(["bench", "likelihood", str(run_directory), *options[:-2]]) == 0
    assert "tokens/s" in capsys.readouterr().out


def test_bench_refuses_what_it_cannot_measure(run_directory, capsys, monkeypatch, tmp_path):
    """No run, too few repetitions, more windows than there are; without a name it is the demo's run
    that is meant.
    """
    monkeypatch.chdir(tmp_path)
    assert "trained run" in refused(capsys, "bench", "likelihood")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(run_directory)
    assert "lower --windows" in refused(
        capsys, "bench", "likelihood", "--windows", "100000", "--no-compiled"
    )
    assert "--repetitions: expected at least 8, found 2" in refused(
        capsys, "bench", "likelihood", run_directory, "--repetitions", "2"
    )
    assert "lower --windows" in refused(
        capsys, "bench", "likelihood", run_directory, "--windows", "100000", "--no-compiled"
    )


PLAN = Plan(
    np.array([[3, 9, 16], [9, 15, 16]]) * 2**20, np.array([[1.7, 0.4, 3.0], [0.2, 2.0, 1.0]])
)


@pytest.mark.parametrize(
    "name", ["independent", "stratified", "fixed_sizes", "default", "complementary"]
)
def test_designs_are_unbiased(name):
    """The mean over seeds lies within 4 of its standard errors of the NELBO by enumeration; a plan
    that fits nothing.
    """
    model = TableModel(3, 3)
    ids_NL = model.windows(2)
    exact = sum(reference.likelihood.exact_nelbo(model.numpy, ids_L, 3) for ids_L in ids_NL)
    arguments = (PLAN,) if name in ("default", "complementary") else ()
    found = [
        getattr(designs, name)(model.torch, ids_NL, 3, 8, seed, *arguments).mean(axis=1).sum()
        for seed in range(250)
    ]
    assert abs(np.mean(found) - exact) < 4 * np.std(found) / np.sqrt(len(found))


def test_best_allocation_is_the_square_of_the_summed_spread():
    """Against the spread by enumeration over all windows' masks, which 1,500 random masks per size
    find to 5 %.
    """
    model = TableModel(2, 4)
    ids_NL, spread_L = model.windows(3), []
    for size in range(1, 5):
        losses = [
            reference.likelihood.nll(model.numpy, ids_L, np.isin(np.arange(4), hidden), 2).sum()
            / size
            for ids_L in ids_NL
            for hidden in itertools.combinations(range(4), size)
        ]
        spread_L.append(np.std(losses))
    assert designs.best_allocation(model.torch, ids_NL, 2, 1500, 0) == pytest.approx(
        sum(spread_L) ** 2, rel=0.05
    )


def test_timed_passes_leave_the_first_one_out(monkeypatch):
    """Five stamps, four intervals, two windows; a chain that ends earlier counts what it had."""
    clock = itertools.count(10)
    monkeypatch.setattr(likelihood.time, "perf_counter", lambda: 3.0 * next(clock))
    calls = []

    def run(on_pass, length=100):
        for i in range(length):
            calls.append(i)
            on_pass(2)

    assert likelihood.seconds_per_window(run, 2, 4) == 1.5 and calls == list(range(5))
    assert likelihood.seconds_per_window(lambda on_pass: run(on_pass, 3), 2, 4) == 1.5


# partial evaluations


def part(*rows):
    """A Part whose numbers have many digits."""
    rows_N = np.array(rows)
    return Part(
        rows_N,
        np.sqrt(rows_N + 2.0),
        np.pi * (rows_N + 1.0),
        np.full(len(rows), 4),
        rows_N + 9,
        4 * len(rows),
    )


def test_files_merge_to_the_last_digit(tmp_path):
    """Any split into files gives the score of one run, whatever the order of ranges and files."""
    whole = partial.Partial(HEADER)
    whole.add(part(*range(7)))
    for split in ((0, 3, 7), (0, 1, 6, 7)):
        files = []
        for start, stop in itertools.pairwise(split):
            some = partial.Partial(HEADER, tmp_path / f"{start}-{stop}.json")
            some.add(part(*range(start, stop)))
            some.save()
            files.append(some.path)
        assert partial.merge(files) == partial.merge(files[::-1]) == whole.score()
    again = partial.Partial(HEADER, files[0])
    assert again.missing(0, 7) == [(1, 7)] and again.missing(0, 1) == []
    again.absorb(partial.read(files[2]))
    assert again.missing(0, 9) == [(1, 6), (7, 9)]


def test_what_does_not_belong_together_is_refused(tmp_path):
    """Other settings, a window twice, another plan, no such file, a foreign file, another version,
    no windows.
    """
    first = partial.Partial(HEADER, tmp_path / "a.json")
    first.add(part(0, 1))
    first.save()
    text = {"tokenizer_sha256": "b" * 64, "length": 16}
    cases = (
        ("order", HEADER | {"order": "left-to-right"}, (2,), "expected order"),
        ("text", HEADER | text, (2,), "tokenizer_sha256 None, found 'bbbbbbbb'; length None"),
        ("again", HEADER, (1, 2), "window 1 again"),
    )
    for name, header, rows, said in cases:
        other = partial.Partial(header, tmp_path / f"{name}.json")
        other.add(part(*rows))
        other.save()
        with pytest.raises(InputError, match=said):
            partial.merge([first.path, other.path])
    planned = partial.Partial(HEADER, tmp_path / "plan.json")
    planned.plans[3] = Plan(np.array([[1, 2, 3]] * 2), np.ones((2, 3)))
    planned.add(part(5))
    planned.save()
    assert partial.read(planned.path).plans[3].cumulative_2L.dtype == np.int64
    moved = partial.Partial(HEADER)
    moved.plans[3] = Plan(np.array([[1, 2, 4]] * 2), np.ones((2, 3)))
    with pytest.raises(InputError, match="another"):
        moved.absorb(partial.read(planned.path))
    with pytest.raises(InputError, match="none"):
        partial.read(tmp_path / "nowhere.json")
    for content in ("", "[]", "{}", '{"version": 2}'):
        (tmp_path / "foreign.json").write_text(content)
        with pytest.raises(InputError, match="foreign.json"):
            partial.read(tmp_path / "foreign.json")
    partial.Partial(HEADER, tmp_path / "empty.json").save()
    with pytest.raises(InputError, match="at least one window"):
        partial.merge([tmp_path / "empty.json"])


SMALL = ["--no-compiled", "--json", "-"]


@pytest.mark.parametrize(
    "effort",
    [["nelbo", "--draws", "4"], ["chain", "--order", "random", "--positions", "3"]],
    ids=" ".join,
)
def test_ranges_scored_apart_are_the_whole(run_directory, tmp_path, capsys, effort):
    """Two ranges in two files, and the same files resumed, against one run: nats to float32
    rounding, since batches differ in shape.
    """

    def scored(*options):
        assert (
            cli.main(
                ["eval", str(run_directory), "--estimator", *effort, *map(str, options), *SMALL]
            )
            == 0
        )
        return json.loads(capsys.readouterr().out)

    whole = scored("--from", 1, "--sequences", 9)
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    scored("--from", 1, "--sequences", 4, "--partial", a)
    assert scored("--from", 5, "--sequences", 5, "--partial", b)["windows"] == 5
    assert cli.main(["eval", "--merge", str(a), str(b), "--json", "-"]) == 0
    merged = json.loads(capsys.readouterr().out)
    resumed = scored("--from", 1, "--sequences", 9, "--partial", a)
    for other in (merged, resumed):
        assert (other["tokens"], other["bytes"], other["windows"]) == (
            whole["tokens"],
            whole["bytes"],
            9,
        )
        for name in ("bpb", "stderr_masks"):
            assert other[name] == pytest.approx(whole[name], rel=1e-5)
    assert resumed == scored("--from", 2, "--sequences", 3, "--partial", a) | {
        "seconds": resumed["seconds"]
    }


def test_partial_options_that_do_not_go_together(run_directory, tmp_path, capsys):
    """Several runs in one file, runs beside --merge, other settings than the file's."""
    file = tmp_path / "a.json"
    assert "expected one run, found 2" in refused(
        capsys, "eval", run_directory, run_directory, "--partial", file, "--no-compiled"
    )
    assert (
        cli.main(["eval", str(run_directory), "--sequences", "2", "--partial", str(file), *SMALL])
        == 0
    )
    capsys.readouterr()
    assert "expected seed 5, found 0" in refused(
        capsys, "eval", run_directory, "--seed", "5", "--partial", file, "--no-compiled"
    )
    assert "--merge: expected partial files alone" in refused(
        capsys, "eval", run_directory, "--merge", file
    )


def test_interrupt_prints_what_is_known_and_resumes(run_directory, tmp_path, monkeypatch, capsys):
    """Ctrl-C after two batches: exit 130, a score of those windows with its error bar, and a file
    that goes on to the same score.
    """
    from fast import evaluate

    whole = scoring.score(
        run_directory, Source(), scoring.Estimate(sequences=9, batch_rows=2), compiled=False
    )
    seen = []

    def interrupted(*arguments, **keywords):
        for each in measure(*arguments, **keywords):
            yield each
            seen.append(each)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGINT)

    file = tmp_path / "a.json"
    command = [
        "eval",
        str(run_directory),
        "--sequences",
        "9",
        "--batch_rows",
        "2",
        "--partial",
        str(file),
        *SMALL,
    ]
    # A suite started in the background ignores it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "measure", interrupted)
        assert cli.main(command) == 130
    signal.signal(signal.SIGINT, before)
    captured = capsys.readouterr()
    known = json.loads(captured.out)
    assert (
        known["windows"] == 4
        and known["stderr_masks"] > 0
        and f"go on with --partial {file}" in captured.err
    )
    assert cli.main(command) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert resumed | {"seconds": 0} == whole | {"seconds": 0}


def test_interrupt_before_anything_is_known_is_one_line(run_directory, monkeypatch, capsys):
    from fast import evaluate

    def nothing(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "measure", nothing)
    assert "interrupted" in refused(capsys, "eval", run_directory, "--no-compiled", code=130)


def test_stopped_carries_its_result():
    stopped = errors.Stopped("stopped: early", {"bpb": 1}, print)
    assert errors.code_and_message(stopped) == (130, "stopped: early") and stopped.result == {
        "bpb": 1
    }
