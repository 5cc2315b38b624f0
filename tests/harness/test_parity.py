"""The parity command: its pieces, the shape of its rows, exit codes, what it prints about a
mismatch; the preflight.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import fast.ema
import fast.fp8
import fast.muon
import fast.transformer
from fast.errors import TrainingError
from harness import cli, parity
from harness.parity.compare import ALGORITHM, Difference, Setting, relative, same, twice, within
from harness.parity.suite import Piece, examine, literal
from reference.orders import ORDERS
from reference.quantize import FORMATS
from reference.recipe import TINY, Model

FIELDS = {
    "piece": str,
    "level": str,
    "class": str,
    "dtype": str,
    "device": str,
    "error": float | None,
    "limit": float,
    "passed": bool,
    "inputs": int,
    "margin": float | None,
    "bound": str,
    "seconds": float,
    "reproduction": str | None,
}
QUICK = ("rope", "clip", "times", "chain-margin")


def halved(shadow, weight, decay):
    """The average as somebody might mistype it."""
    return decay * shadow + 0.5 * (1 - decay) * weight.to(shadow.dtype)


def rows_of(capsys, *arguments, code=0) -> list[dict]:
    """Return the JSON that the command writes to stdout."""
    assert cli.main(["parity", *arguments, "--json", "-"]) == code
    return json.loads(capsys.readouterr().out)


def test_pieces_are_those_of_the_issue():
    names = {
        "philox",
        "times",
        "masks",
        "loss",
        "rmsnorm",
        "rope",
        "attention",
        "block",
        "unet",
        "forward",
        "gradients",
        "clip",
        "newton-schulz",
        "muon",
        "adam",
        "ema",
        "schedule",
        "fp8",
        "container",
        "bytes",
        "nelbo",
        "nelbo-grid",
        "trajectory",
    }
    assert names | {f"quantize-{format}" for format in (*FORMATS, "steps")} | {
        f"chain-{order}" for order in ORDERS
    } <= set(parity.PIECES)
    assert parity.PIECES["trajectory"].cases[0]["iterations"] == 50
    assert all(
        len(piece.cases) > 1 for name, piece in parity.PIECES.items() if name != "trajectory"
    )


def test_json_has_its_frozen_shape(capsys):
    rows = rows_of(capsys, *QUICK)
    assert {row["piece"] for row in rows} == set(QUICK)
    for row in rows:
        assert row.keys() == FIELDS.keys()
        assert all(isinstance(row[name], kind) for name, kind in FIELDS.items())
        assert row["passed"] and row["reproduction"] is None and row["inputs"] > 0
        assert row["level"] in ("algorithm", "numbers") and row["class"] in (
            "bitwise",
            "algebra",
            "rounding",
        )
        assert row["margin"] == (
            row["limit"] / row["error"] if row["error"] and row["limit"] else None
        )
    kinds = {(row["piece"], row["level"], row["class"], row["dtype"]) for row in rows}
    assert kinds == {
        ("rope", "algorithm", "algebra", "float64"),
        ("rope", "numbers", "rounding", "float32"),
        ("rope", "numbers", "rounding", "bfloat16"),
        ("clip", "algorithm", "algebra", "float64"),
        ("clip", "numbers", "rounding", "float32"),
        ("times", "algorithm", "bitwise", "float64"),
        ("chain-margin", "algorithm", "bitwise", "float64"),
        ("chain-margin", "numbers", "bitwise", "float32"),
    }
    assert all(row["limit"] == ALGORITHM for row in rows if row["class"] == "algebra")


def test_one_dtype_and_a_first_word_for_several_pieces(capsys):
    rows = rows_of(capsys, "quantize", "--dtype", "bfloat16")
    pieces = {f"quantize-{format}" for format in (*FORMATS, "steps")}
    assert {row["piece"] for row in rows} == pieces
    assert {row["dtype"] for row in rows} == {"float64", "bfloat16"}


def test_table_for_people(capsys, tmp_path):
    assert cli.main(["parity", "ema", "rope", "--json", str(tmp_path / "rows.json")]) == 0
    shown = capsys.readouterr().out
    assert "rope" in shown and "limit of rope" in shown and "0 red" in shown and " s\n" in shown
    assert [row["piece"] for row in json.loads((tmp_path / "rows.json").read_text())] == [
        "ema"
    ] * 3 + ["rope"] * 3


def test_an_unknown_piece_is_bad_input(capsys):
    assert cli.main(["parity", "softmax"]) == 2
    message = capsys.readouterr().err
    assert (
        message.startswith("maskgolf: ")
        and "'softmax'" in message
        and "newton-schulz" in message
        and message.count("\n") == 1
    )


def test_a_mismatch_exits_1_and_prints_what_reproduces_it(capsys, monkeypatch):
    monkeypatch.setattr(fast.ema, "ema_update", halved)
    row = rows_of(capsys, "ema", code=1)[0]
    assert not row["passed"] and row["error"] > row["limit"]
    assert cli.main(["parity", "ema"]) == 1
    assert row["reproduction"] in capsys.readouterr().out
    with pytest.raises(AssertionError, match="ema"):
        exec(row["reproduction"], {})
    monkeypatch.undo()
    exec(row["reproduction"], {})


@pytest.mark.parametrize(
    ("name", "attribute"), [("attention", "attention"), ("rope", "rope"), ("block", "mlp")]
)
def test_every_red_row_reproduces_where_it_was_seen(name, attribute, monkeypatch):
    """Models and dtypes print as source too; the planted fault is one part in a hundred."""
    right = getattr(fast.transformer, attribute)
    monkeypatch.setattr(
        fast.transformer,
        attribute,
        lambda *arguments, **keywords: 1.01 * right(*arguments, **keywords),
    )
    rows = examine(parity.PIECES[name], dtypes=(torch.float32,))
    assert [row.passed for row in rows] == [False, False]
    for row in rows:
        with pytest.raises(AssertionError):
            exec(row.reproduction, {})


def test_breaking_input_is_made_small(monkeypatch):
    """One value in 65,000 is encoded wrongly: the list that is printed holds that one."""
    right = fast.fp8.encode
    monkeypatch.setattr(
        fast.fp8,
        "encode",
        lambda values, *rest, **more: right(
            torch.where(values == 1.75, 2.0, values), *rest, **more
        ),
    )
    row = examine(parity.PIECES["fp8"])[0]
    assert not row.passed and "values=[1.75]" in row.reproduction


def test_a_fast_half_that_raises_is_red_and_says_what(monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("no kernel for this shape\nand a trace")

    monkeypatch.setattr(fast.muon, "newton_schulz", refuse)
    row = examine(parity.PIECES["newton-schulz"])[0]
    assert (
        not row.passed
        and row.error is None
        and "# RuntimeError: no kernel for this shape" in row.reproduction
    )
    json.dumps(row.plain(), allow_nan=False)


def test_a_piece_that_compared_nothing_is_red():
    rows = examine(Piece("idle", lambda: lambda setting: [], [{}]))
    assert [(row.passed, row.inputs) for row in rows] == [(False, 0)]


def test_a_result_in_less_than_float64_is_no_check_of_the_algorithm():
    setting = Setting()
    assert within(setting, torch.ones(2, dtype=torch.float64), np.ones(2), 0.0).ratio == 0
    assert within(setting, torch.ones(2), np.ones(2), 1.0).ratio == math.inf
    assert twice(setting, torch.ones(2), np.ones(2), None)[0].ratio == math.inf


def test_comparisons_see_shapes_and_what_is_not_finite():
    assert same(np.array([1.0, math.nan]), np.array([1.0, math.nan])).ratio == 0
    assert same(np.array([1, 2, 3]), np.array([1, 5, 4])) == Difference(2.0, 0.0)
    assert same(b"abc", b"abd!") == Difference(2.0, 0.0) and same("a", "a").ratio == 0
    assert (
        same(np.zeros(2), np.zeros((1, 2))).ratio
        == relative(np.zeros(2), np.zeros((1, 2))).ratio
        == math.inf
    )
    assert (
        relative(np.array([math.nan]), np.array([1.0])).ratio
        == relative(np.array([math.inf]), np.array([1.0])).ratio
        == math.inf
    )
    assert relative(np.array([2.0, 3e-9]), np.array([2.0, 0.0])).ratio == pytest.approx(1.5)
    assert Difference(math.nan, 1.0).ratio == Difference(0.1, 0.0).ratio == math.inf
    low = Setting(dtype=torch.bfloat16)
    found = torch.tensor([1.0, 2.0]).bfloat16()
    assert within(low, found, np.array([1.0, 2.5]), np.array([0.0, 1.0])) == Difference(
        0.5 / 2.5, 1.0 / 2.5
    )
    assert within(low, found.float(), np.array([1.0, 2.0]), 1.0).ratio == math.inf
    assert within(low, found, np.array([1.0, 2.5]), np.array([1.0, 0.25])).ratio == 2


def test_limits_of_low_precision_follow_the_plain_run():
    low, exact = Setting(dtype=torch.bfloat16), np.ones(1000)
    found = torch.full((1000,), 1.0 + 2.0**-6, dtype=torch.bfloat16)
    assert twice(low, found, exact, lambda: exact + 2.0**-7) == [Difference(2.0**-6, 2.0**-6)]
    assert twice(low, found, exact, lambda: exact)[0].limit == 2 * 2.0**-8
    assert twice(low, found[:9], exact[:9], None) == []


def test_a_result_of_a_wider_dtype_than_its_own_is_red():
    """Numbers of float32 where those of bfloat16 were meant err 2**-16 as much as a plain run: an
    error far below the limit says that something else was computed.
    """
    low, exact = Setting(dtype=torch.bfloat16), np.random.default_rng(0).standard_normal(1000)
    plainly = torch.from_numpy(exact).bfloat16().float()
    [same] = twice(low, plainly, exact, lambda: plainly, torch.float32)
    assert same.ratio == 0.5
    wide = torch.from_numpy(exact).float()
    [better] = twice(low, wide, exact, lambda: plainly, torch.float32)
    assert better.ratio > 100 and better.limit == pytest.approx(2.0**-26, rel=1)


@pytest.mark.parametrize(
    "value",
    [
        0.1,
        math.inf,
        -math.inf,
        [1, -0.0, "\u2581a'"],
        (1,),
        (1, 2.5),
        {"a": [True, None]},
        TINY.model,
        Model(),
        replace(TINY.model, causal=True),
    ],
)
def test_literals_are_source(value):
    assert repr(eval(literal(value), {"Model": Model})) == repr(value)
    assert repr(eval(literal(math.nan))) == "nan"


def test_preflight_passes_and_says_so():
    said = []
    rows = parity.preflight(TINY, "cpu", False, said.append)
    assert all(row.passed for row in rows) and len(said) == 1 and "cpu" in said[0]
    assert {row.piece for row in rows} == set(parity.PIECES) - {"trajectory"}
    assert {row.dtype for row in rows} == {"float64", "float32"}


@pytest.mark.slow
def test_a_compiled_step_of_both_objectives_is_as_accurate_as_a_plain_one():
    """The last input of the piece, on micro-batches of one masked and one causal row."""
    piece = parity.PIECES["step"]
    assert piece.compiles == 1 and 0 < piece.cases[-1]["model"].causal_share < 1
    [row] = parity.examine(piece, compiled=True, levels=("compiled",), shrink=False)
    assert row.passed and row.inputs == 1, row


def test_preflight_names_what_is_wrong(monkeypatch):
    monkeypatch.setattr(fast.ema, "ema_update", halved)
    monkeypatch.setattr(parity, "PIECES", {name: parity.PIECES[name] for name in ("rope", "ema")})
    with pytest.raises(
        TrainingError, match=r"preflight on cpu: ema \(algorithm, float64.*maskgolf parity ema"
    ):
        parity.preflight(TINY, "cpu", False, lambda text: pytest.fail(text))


def test_compiled_level_runs_what_the_step_compiles(capsys):
    """One small graph; the rest of the compiled level is the preflight's on the machine that
    trains.
    """
    rows = rows_of(capsys, "adam", "--compiled")
    found = [(row["level"], row["dtype"], row["inputs"]) for row in rows]
    assert found == [
        ("algorithm", "float64", 21),
        ("numbers", "float32", 21),
        ("compiled", "float32", 1),
    ]
    assert all(row["passed"] for row in rows)


@pytest.mark.parametrize("causal", [False, True])
def test_preflight_checks_what_the_run_computes(monkeypatch, causal):
    """Its two dtypes, which may differ, the device, and the compiled step of its own objective."""
    asked = {}

    def record(piece, device, dtypes, compiled):
        asked[piece.name] = piece, device, dtypes, compiled
        return []

    monkeypatch.setattr(parity, "examine", record)
    recipe = replace(
        TINY,
        model=replace(TINY.model, causal=causal),
        training=replace(TINY.training, compute_dtype="bfloat16"),
        optimizer=replace(TINY.optimizer, muon_dtype="float16"),
    )
    parity.preflight(recipe, "meta", True, lambda text: None)
    assert set(asked) == set(parity.PIECES) - {"trajectory"}
    assert {device for _, device, _, _ in asked.values()} == {"meta"}
    assert {name for name, (_, _, _, compiled) in asked.items() if compiled} == {"masks", "step"}
    muon = {name for name, (_, _, dtypes, _) in asked.items() if torch.float16 in dtypes}
    assert muon == {"newton-schulz", "muon"}
    assert all(torch.bfloat16 in dtypes for _, _, dtypes, _ in asked.values())
    step = asked["step"][0]
    compiled = step.cases[-step.compiles :]
    assert [case["model"].causal for case in compiled] == [causal]
    assert len(step.cases) == len(parity.PIECES["step"].cases)
