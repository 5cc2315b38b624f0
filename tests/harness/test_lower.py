"""What of make lower needs no CUDA build: fake-tensor graphs, the roofline, the verdicts."""

import json
from collections import Counter
from dataclasses import replace
from unittest import mock

import pytest
import sympy
import torch
from torch._inductor.dependencies import MemoryDep, StarDep
from torch.utils._sympy.functions import FloorDiv, Identity, ModularIndexing

from fast import philox, train
from harness.lower import __main__ as command
from harness.lower import counts, gemm, judge, parts, ptx, result, roofline, trace, traffic
from harness.lower.inductor import Launch
from harness.lower.ptx import Kernel
from reference.recipe import GOLF as PUBLIC
from reference.recipe import TINY

# The golf preset's shapes; every layer after these is one more of the same
GOLF = replace(PUBLIC, model=replace(PUBLIC.model, layers=4))
GRAPHS = ("forward", "backward", "update", *trace.PASSES)


@pytest.fixture(scope="module")
def tiny():
    """Return ({phase: Graph}, problems) of everything that production runs at the tiny preset."""
    return traced(TINY, trace.PHASES)


@pytest.fixture(scope="module")
def golf():
    """Return {phase: Graph} of a training step at the golf preset's shapes and of the whole forward
    pass.
    """
    return traced(GOLF, ("training", "nelbo"))


def traced(recipe, phases):
    """Return ({phase: Graph}, problems)."""
    traces = list(trace.traces(recipe, "cudnn", phases))
    graphs = [graph for each in traces for graph in each.graphs]
    problems = [line for each in traces for line in judge.of_trace(each)]
    assert len({graph.phase for graph in graphs}) == len(graphs)
    return {graph.phase: graph for graph in graphs}, problems


def captured(function, *tensors):
    """Return the Trace of a function on fake tensors, with the gradients that they ask for."""
    with trace.captured("planted", "cudnn") as (mode, found):
        given = trace.faked(tensors, mode)
        with mode:
            value = torch.compile(function, dynamic=False)(*given)
            if value.requires_grad:
                value.sum().backward()
    return found


def graph_of(function, *tensors, phase="planted"):
    """Return the one ATen graph of a function, or of its gradient."""
    found = [each for each in captured(function, *tensors).graphs if each.phase == phase]
    assert len(found) == 1
    return found[0].module


def operations(module):
    """Return how often each operation occurs in a graph, views aside."""
    names = map(counts.name_of, counts.calls(module))
    return Counter(name for name in names if name not in counts.VIEWS)


def bytes_by_operation(module):
    """Return the bytes that each operation moves in a graph when nothing is fused."""
    total = Counter()
    for node in counts.calls(module):
        total[counts.name_of(node)] += counts.bytes_of(node)
    return +total


def serial(module):
    """Return the operations of a graph that are serial or sum in any order, one line each."""
    lines = []
    for node in counts.calls(module):
        reason = counts.SERIAL.get(counts.name_of(node).rstrip("_"))
        if reason and counts.repeats(node):
            lines.append(f"{node.name}: {counts.name_of(node)} {reason}")
    return lines


@pytest.mark.slow
def test_every_phase_is_one_graph_without_a_break(tiny, golf):
    """All of them at the tiny preset; the step and the forward pass at golf's shapes."""
    assert tuple(tiny[0]) == GRAPHS
    assert tuple(golf[0]) == ("forward", "backward", "update", "nelbo")
    assert tiny[1] == golf[1] == []


def test_graph_breaks_are_problems():
    """A value read on the way, and print, which Dynamo steps around."""

    def reads(x):
        return x * 2 if x.sum() > 0 else x

    def prints(x):
        y = x * 2
        print(y)
        return y + 1

    for broken in (reads, prints):
        found = captured(broken, torch.ones(3))
        assert found.problems and "graph break" in found.problems[0]
        assert judge.of_trace(found) != []
    assert judge.of_trace(trace.Trace("idle", [], [])) == ["idle: nothing was traced"]


@pytest.mark.slow
def test_operations_of_the_golf_step(golf):
    """Products and attention follow from the recipe: six matrices and one attention a block."""
    forward, backward = (operations(golf[0][phase].module) for phase in ("forward", "backward"))
    layers = GOLF.model.layers
    assert forward["_scaled_dot_product_cudnn_attention"] == layers
    assert backward["_scaled_dot_product_cudnn_attention_backward"] == layers
    assert 3 * layers < forward["mm"] <= 6 * layers + 1
    assert forward["relu"] == layers and forward["tanh"] == 1
    assert not {"view", "permute", "slice"} & forward.keys()


def flops_of_products(module):
    """Return the FLOPs of a graph's matrix products."""
    return sum(counts.flops_of(node) for node in counts.calls(module) if counts.product(node))


@pytest.mark.slow
def test_flops_of_the_golf_step_follow_from_the_recipe(golf):
    """Forward: 2 per weight and token. What follows the last attention sees about half the tokens.

    Backward: twice that, and the embedding's product with one-hot ids.
    """
    model, tokens = GOLF.model, GOLF.training.micro_batch_tokens
    kv = model.d // model.heads * model.kv_heads
    block = model.d * (2 * model.d + 2 * kv + 2 * model.mlp * model.d)
    matrices = 2 * tokens * model.layers * block
    head = 2 * tokens * model.d * model.vocab
    masked = 2 * tokens * model.d * (model.d + 2 * model.mlp * model.d + model.vocab)
    others = matrices + head - masked
    forward, backward = (
        flops_of_products(golf[0][phase].module) for phase in ("forward", "backward")
    )
    assert others + masked / 2 <= forward <= others + 0.53 * masked
    one_hot = 2 * tokens * model.d * (model.vocab + 8)
    assert backward == 2 * forward + one_hot
    whole = flops_of_products(golf[0]["nelbo"].module)
    assert whole == matrices + head
    attended = sum(counts.attention_flops(node) for node in counts.calls(golf[0]["forward"].module))
    assert attended == 4 * tokens * model.length * model.d * model.layers
    attended = sum(
        counts.attention_flops(node) for node in counts.calls(golf[0]["backward"].module)
    )
    assert attended == 10 * tokens * model.length * model.d * model.layers


def test_bytes_per_operation():
    """A sum reads two and writes one; a view moves nothing; an expanded row counts once."""
    module = graph_of(lambda x, y: (x + y).relu().T, torch.ones(8, 4), torch.ones(8, 4))
    assert bytes_by_operation(module) == {"add": 3 * 128, "relu": 2 * 128}
    assert counts.size_of(torch.ones(1, 4).expand(8, 4)) == 16
    assert counts.size_of((torch.ones(2), None, torch.ones(3, dtype=torch.bfloat16))) == 14
    assert counts.size_of(None) == counts.size_of(torch.ones(0, 3)) == 0


@pytest.mark.slow
def test_what_forward_keeps_is_counted(golf, tiny):
    """About a dozen activations a block of the golf preset; the inputs do not count."""
    one = GOLF.training.micro_batch_tokens * GOLF.model.d * 2
    kept = counts.saved_bytes(golf[0]["forward"].module)
    assert 8 * GOLF.model.layers * one < kept < 30 * GOLF.model.layers * one
    assert 0 < counts.saved_bytes(tiny[0]["forward"].module) < kept / 1e4


@pytest.mark.slow
def test_no_gradient_is_summed_one_row_after_another(tiny, golf):
    """No accumulating write is left in the step, at either preset."""
    for graphs, _ in (tiny, golf):
        for phase in ("forward", "backward", "update"):
            assert serial(graphs[phase].module) == [], phase


def test_serial_sums_are_seen():
    """The gradients of an embedding and of a gather that repeats an index, and an index_add."""
    table, ids = torch.ones(5, 4, requires_grad=True), torch.zeros(7, dtype=torch.int64)
    looked_up = graph_of(
        lambda t, i: torch.nn.functional.embedding(i, t).square(), table, ids, phase="backward"
    )
    assert len(serial(looked_up)) == 1
    gathered = graph_of(
        lambda t, i: t.gather(0, i[:, None].expand(-1, 4)).square(), table, ids, phase="backward"
    )
    assert len(serial(gathered)) == 1
    added = torch.fx.experimental.proxy_tensor.make_fx(
        lambda t, i: t.index_add(0, i, torch.ones(7, 4))
    )
    assert ["index_add" in line for line in serial(added(table.detach(), ids))] == [True]


def test_sums_that_meet_no_index_twice_pass():
    """One index a row, as in the loss, and a write that replaces."""
    scores, ids = torch.ones(5, 4, requires_grad=True), torch.zeros(5, dtype=torch.int64)
    picked = graph_of(lambda s, i: s.gather(-1, i[:, None]).square(), scores, ids, phase="backward")
    assert operations(picked)["scatter_add"] == 1 and serial(picked) == []
    make = torch.fx.experimental.proxy_tensor.make_fx
    replaced = make(lambda t, i: t.index_put((i,), torch.ones(5, 4)))
    added = make(lambda t, i: t.index_put((i,), torch.ones(5, 4), accumulate=True))
    assert serial(replaced(scores.detach(), ids)) == []
    assert len(serial(added(scores.detach(), ids))) == 1


WIDE = 3528531795


@pytest.mark.slow
def test_indices_stay_within_int32(tiny, golf):
    """Nothing of the random numbers is left that Inductor would take for index arithmetic."""
    for graphs, _ in (tiny, golf):
        for phase, graph in graphs.items():
            assert counts.wide_indices(graph.module) == [], phase


@pytest.mark.parametrize(
    ("planted", "seen"),
    [
        (lambda x: x + WIDE * torch.arange(4), True),
        (lambda x: x + (torch.arange(4)[None] + 1) * WIDE, True),
        (lambda x: x + (torch.arange(4) * 2**20).view(2, 2).view(4) * 2**11, True),
        (lambda x: x + (torch.arange(4) + WIDE), True),
        (lambda x: x + WIDE * (torch.arange(4) ^ 0), False),
        (lambda x: x + (2**31 - 1) * torch.arange(4), False),
        (lambda x: x + WIDE * x, False),
    ],
)
def test_wide_indices_are_seen(planted, seen):
    """Directly, through views and in two steps; bitwise operations and loads end an index."""
    module = graph_of(planted, torch.ones(4, dtype=torch.int64))
    assert bool(counts.wide_indices(module)) is seen


def test_a_philox_without_its_guard_is_seen():
    """The counters as they come from arange, in whole products: what Triton refused."""

    def unguarded(c0, c1, c2, c3, k0, k1):
        product = philox.MULTIPLIERS[0] * c0
        return product ^ c1 ^ k0, product, product ^ c3 ^ k1, product

    draw = lambda rows: philox.words(0, 1, 2, rows, 8)  # noqa: E731
    assert counts.wide_indices(graph_of(draw, torch.arange(3))) == []
    with mock.patch.object(philox, "_rounds", unguarded):
        assert len(counts.wide_indices(graph_of(draw, torch.arange(3)))) == 1


def test_parts_are_told_from_the_lines_of_fast():
    """The innermost caller alone makes a choice; elsewhere the first rule that matches."""

    def frames(*lines):
        return "\n".join(
            f'  File "x/fast/{file}.py", line 7, in {function}\n    {code}'
            for file, function, code in lines
        )

    block, norm = ("transformer", "block", "x = x + y"), ("transformer", "rmsnorm", "accurate = x")
    assert parts.part_of_trace(frames(block, norm)) == parts.OTHER == parts.part_of_trace("")
    assert (
        parts.part_of_trace(frames(block, ("transformer", "attention", "q = split(q)"), norm))
        == "RoPE and heads"
    )
    assert (
        parts.part_of_trace(frames(block, ("transformer", "mlp", "return up(x)")))
        == "relu² and MLP"
    )
    assert parts.part_of_trace(frames(("sample", "_pass", "log_probs(ids)"), block)) == parts.OTHER
    assert parts.part_of_trace(frames(block, ("orders", "scores", "x.amax()"))) == parts.CHOICE
    assert parts.part_of_trace(frames(("masking", "kept_loss", "nats.sum()"))) == "loss and head"


@pytest.mark.slow
def test_parts_of_the_golf_step(golf):
    """Every part that the step must have is found, forward and backward."""
    for phase in ("forward", "backward"):
        found = {parts.part_of([node], phase) for node in counts.calls(golf[0][phase].module)}
        assert {parts.OTHER, "RoPE and heads", "relu² and MLP", "loss and head"} <= found
    assert parts.part_of([], "update") == parts.UPDATE


ASSUMED = roofline.Assumptions()


def launch(kind="generated", name="k", moved=0, **more):
    """Return a launch of the forward phase."""
    return Launch("forward", kind, kind, name, moved, **more)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (launch(), 3e-6),
        (launch(moved=2.68e12), 1.0),
        (launch("matmul", flops=989e12, inner=576, dtype="bfloat16"), 1 / 0.6),
        (launch("matmul", flops=989e12, inner=65536, dtype="bfloat16"), 1 / 0.5),
        (launch("matmul", flops=67e12, inner=576, dtype="float32"), 1 / 0.6),
        (launch("matmul", moved=2.68e12, flops=1.0, inner=576, dtype="bfloat16"), 1.0),
        (launch("template", flops=989e12, inner=576, dtype="bfloat16"), 1 / 0.55),
        (
            launch("attention", "aten._scaled_dot_product_cudnn_attention.default", flops=300e12),
            1.0,
        ),
        (
            launch(
                "attention",
                "aten._scaled_dot_product_cudnn_attention_backward.default",
                flops=225e12,
            ),
            1.0,
        ),
        (
            launch("attention", "aten._scaled_dot_product_flash_attention.default", flops=247e12),
            1.0,
        ),
        (
            launch(
                "attention", "aten._scaled_dot_product_efficient_attention.default", flops=20e12
            ),
            1.0,
        ),
        (launch("fallback", rows=2_000_000), 3e-6 + 0.7),
    ],
)
def test_seconds_of_one_launch(one, expected):
    """Bytes or operations, whichever take longer; rows that are added one after another on top."""
    assert roofline.seconds(one, ASSUMED) == pytest.approx(expected, rel=1e-12)


def test_a_step_counts_its_micro_batches_and_one_update():
    """golf: 8 micro-batches; an evaluation pass is no part of a step."""
    made = [
        Launch(phase, "generated", "x", "k", 2680, 1.0)
        for phase in ("nelbo", "update", "backward", "forward")
    ]
    sums = roofline.table(made, GOLF, ASSUMED)
    assert list(sums)[:2] == [("step", "all"), ("step", "x")]
    assert sums["step", "all"].launches == 17 and sums["step", "all"].bytes == 17 * 2680
    assert sums["step", "all"].ms == pytest.approx(17 * 3e-3) and sums["nelbo", "all"].launches == 1
    assert sums["forward", "x"].flops == 8.0
    small = replace(GOLF, training=replace(GOLF.training, tokens_per_step=GOLF.model.length))
    assert roofline.table(made, small, ASSUMED)["step", "all"].launches == 3


def test_every_assumption_has_a_reason():
    """And a value of its own in the file."""
    assert all(each["why"] and each["value"] > 0 for each in ASSUMED.stated().values())


def test_fallbacks_need_a_reason():
    """Products and attention do not; what adds rows one after another has none."""
    assert judge.refusal(launch("fallback", "torch.ops.aten.sort.stable")) is None
    assert judge.refusal(launch("fallback", "aten.index_put_")) is None
    assert "adds 65,536 rows" in judge.refusal(launch("fallback", "aten.index_put_", rows=65536))
    assert "without a reason" in judge.refusal(launch("fallback", "aten.histc.default"))
    assert judge.refusal(launch("matmul", "extern_kernels.mm")) is None
    assert len(judge.of_launches([launch("fallback", "aten.histc.default")] * 3 + [launch()])) == 1
    assert all(judge.ALLOWED.values())


def test_kernels_fail_by_error_or_spill():
    """What ptxas says is read; a kernel that compiles and spills nothing passes."""
    said = "8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\nUsed 242 registers"
    assert ptx.read_usage(said) == (242, 12)
    good, wrong, spills = (
        Kernel("f", "a", 32),
        Kernel("f", "b", error="no"),
        Kernel("f", "c", 255, 12),
    )
    assert judge.of_kernels([good]) == []
    assert judge.of_kernels([good, spills, wrong]) == [
        "f: b does not compile: no",
        "f: c spills 12 bytes per thread",
    ]


def test_equal_kernels_are_compiled_once():
    """However they are called."""
    code = "a = async_compile.triton('k_0', '''def k_0(): 1''')\n"
    code += "b = async_compile.triton('k_1', '''def k_1(): 1''')"
    other = "c = async_compile.triton('k_1', '''def k_1(): 2''')"
    assert ptx.sources({"f": code, "g": code + other}) == [
        ("f", "k_0", "def k_0(): 1"),
        ("g", "k_1", "def k_1(): 2"),
    ]


def test_the_form_of_a_product_is_chosen_by_a_rule():
    """The tile nearest to the usual one; the library where tiles leave multiprocessors idle."""
    library, near, far = (None, 0), ((128, 64, 32, 8), 500), ((16, 32, 16, 8), 9000)
    few_warps = ((128, 64, 32, 4), 500)
    assert gemm.choose([library, far, few_warps, near]) == 3
    assert gemm.choose([library, ((128, 64, 32, 8), 25)]) == 0
    assert gemm.choose([((128, 64, 32, 8), 25), far]) == 0
    assert gemm.choose([library]) == 0


def command_run(monkeypatch, capsys, failures, *arguments):
    """Run the command with a finished result; return (exit code, stdout, stderr)."""
    from harness.lower import run

    sums = roofline.table([launch(moved=10**9)], GOLF, ASSUMED)
    rows = result.rows("golf", sums, ASSUMED, "H100 SXM (predicted)", "plainly")
    monkeypatch.setattr(
        run, "everything", lambda *_: (rows, result.text(sums, {"forward": 10}, ASSUMED), failures)
    )
    code = command.main(list(arguments))
    return code, *capsys.readouterr()


def test_the_command_fails_on_any_failure(monkeypatch, capsys):
    """Exit 1 and one line each; rows on stdout alone with --json -."""
    assert command_run(monkeypatch, capsys, [])[0] == 0
    code, out, err = command_run(monkeypatch, capsys, ["forward: a", "update: b"], "--json", "-")
    assert code == 1 and "FAILED forward: a\nFAILED update: b\n" in err
    rows = json.loads(out)
    assert rows[0]["name"] == "lower golf: step: all" and rows[0]["assumptions"]["launch"]["why"]
    shape = {
        "name",
        "baseline",
        "candidate",
        "ratio",
        "low",
        "high",
        "pairs",
        "unit",
        "machine",
        "launches",
        "bytes",
        "flops",
        "note",
    }
    assert all(shape <= row.keys() and row["unit"] == "ms" and row["candidate"] > 0 for row in rows)


def test_settings_are_literals_or_words():
    """And nothing without a name."""
    assert command.setting("triton.x=False") == ("triton.x", False)
    assert command.setting("a='TRITON'") == command.setting("a=TRITON") == ("a", "TRITON")
    with pytest.raises(SystemExit):
        command.parser().parse_args(["--set", "nothing"])


def test_a_failed_lowering_is_a_line_and_the_rest_goes_on(monkeypatch):
    """Whatever Inductor raises."""
    from harness.lower import inductor, run

    def refuse(graph, settings):
        raise AssertionError("\n out of range")

    monkeypatch.setattr(inductor, "lower", refuse)
    found = captured(lambda x: x + 1, torch.ones(2))
    assert run.lowered(found, {}) == ([], ["planted: is not lowered: out of range"])


def access(index: str, **axes):
    """Return an access of a buffer: an index in terms of its axes, and their sizes."""
    names = {name: sympy.Symbol(name, integer=True) for name in axes}
    known = {"ModularIndexing": ModularIndexing, "FloorDiv": FloorDiv, "Identity": Identity}
    expression = sympy.sympify(eval(index, known | names))
    sizes = tuple(map(sympy.Integer, axes.values()))
    return MemoryDep("buf0", expression, tuple(names.values()), sizes)


def test_a_row_and_the_same_row_rolled_are_one_read():
    """What q, k and v share is read in part; what differs adds up; the buffer is the limit."""
    rows = {"r": 1000, "c": 24}
    plain = access("72 * r + c", **rows)
    rolled = access("72 * r + ModularIndexing(c + 12, 1, 24)", **rows)
    other = access("72 * r + c + 24", **rows)
    assert traffic.touched([plain, rolled], 72_000) == 24_000
    assert traffic.touched([plain, rolled, other], 72_000) == 48_000
    assert traffic.touched([plain, other], 30_000) == 30_000
    assert traffic.touched([access("Identity(72 * r + c)", **rows), plain], 72_000) == 24_000
    assert traffic.touched([access("72 * r + FloorDiv(c, 2)", **rows), plain], 72_000) == 48_000
    assert traffic.touched([access("7")], 72_000) == 1


def test_where_values_decide_the_whole_buffer_is_read():
    """An index that is looked up, an unknown function, an access without an index."""
    rows = {"r": 10, "c": 4}
    found = sympy.Symbol("tmp0", integer=True)
    indirect = MemoryDep("buf0", 4 * found, (), ())
    unknown = MemoryDep("buf0", sympy.Function("odd")(found), (found,), (sympy.Integer(4),))
    for dep in (indirect, unknown, StarDep("buf0")):
        assert traffic.touched([dep, access("4 * r + c", **rows)], 99) == 99


@pytest.mark.slow
def test_production_says_how_a_gpu_compiles(golf):
    """The options of the loss go with its graphs, not with the update's; the embedding is
    CUDA's.
    """
    graphs = golf[0]
    assert graphs["forward"].options == graphs["backward"].options == train.AUTOTUNED
    assert graphs["update"].options == graphs["nelbo"].options == {}
