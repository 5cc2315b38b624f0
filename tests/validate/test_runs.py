"""The parts of checks that execute, score or probe: cheating models are caught, honest ones are
not; a program stays in the sandbox.
"""

import base64
import math
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fast.bytes import ByteTable
from fast.data import Tokens, Windows, evaluation_windows
from fast.orders import ORDERS
from harness.validate import (
    execution,
    hidden,
    portable,
    probes,
    rescore,
    sandbox,
    score,
    tables,
    validity,
)
from harness.validate.finding import CannotTell
from harness.validate.submission import Options, Submission
from tests.support.table_model import TableModel

V, L = 3, 4


def log_probs(ids_BL: torch.Tensor) -> torch.Tensor:
    """Answer for every position, the revealed ones too, from a table without structure."""
    return torch.nan_to_num(TABLE.torch(ids_BL), nan=-1.0)


TABLE = TableModel(V, L)
WINDOWS = TABLE.windows(5)


def causal_model(peek: int = 0):
    """Return an autoregressive log_probs: the distribution at a position depends on the ids up to
    it, and `peek` beyond.
    """
    weights = torch.from_numpy(np.random.default_rng(3).standard_normal((L + 1, L + 1, V, V)))

    def model(ids_BL: torch.Tensor) -> torch.Tensor:
        rows = []
        for i in range(ids_BL.shape[1]):
            seen = range(min(i + 1 + peek, ids_BL.shape[1]))
            rows.append(sum(weights[i, j, ids_BL[:, j]] for j in seen).log_softmax(-1))
        return torch.stack(rows, dim=1)

    return model


# Probabilities sum to 1


def test_normalised_distributions_pass_and_others_do_not():
    contexts_BL, asked_BL = probes.masked_contexts(WINDOWS, V)
    honest = probes.mass(lambda ids: log_probs(ids).float(), contexts_BL, asked_BL)
    assert validity.unsummed(honest).verdict == "pass" and honest.distributions == int(
        asked_BL.sum()
    )
    for gain in (1e-4, -1e-4, math.log(2)):  # 0.01 % too much or too little is far beyond rounding
        cheating = probes.mass(lambda ids, gain=gain: log_probs(ids) + gain, contexts_BL, asked_BL)
        assert cheating.error == pytest.approx(abs(gain), rel=1e-2)
        assert validity.unsummed(cheating).verdict == "fail"


def test_nan_is_no_distribution():
    contexts_BL, asked_BL = probes.masked_contexts(WINDOWS, V)
    found = probes.mass(lambda ids: log_probs(ids) * math.nan, contexts_BL, asked_BL)
    assert validity.unsummed(found).verdict == "fail"


def test_contexts_hide_one_all_and_some():
    contexts_BL, hidden_BL = probes.masked_contexts(WINDOWS, V)
    sizes = hidden_BL.sum(dim=1).tolist()
    assert (
        sizes[:5] == [1] * 5
        and sizes[5:10] == [L] * 5
        and all(1 <= size <= L for size in sizes[10:])
    )
    assert ((contexts_BL == V) == hidden_BL).all()
    assert (contexts_BL[~hidden_BL] == torch.from_numpy(np.tile(WINDOWS, (3, 1)))[~hidden_BL]).all()


# Nothing is known before it is revealed


def look(scorers: dict) -> dict:
    return validity.look_ahead(scorers, WINDOWS, V)


@pytest.mark.parametrize("order", ORDERS)
def test_our_chain_neither_peeks_nor_moves(order):
    found = look({order: probes.chain_scorer(log_probs, V, order, block=2)})
    assert [
        judge(found).verdict
        for judge in (validity.unchanged_charges, validity.unchanged_order, validity.charged_once)
    ] == ["pass"] * 3
    assert found[order].compared > 0


@pytest.mark.parametrize("order", ORDERS)
def test_places_are_those_of_the_chain(order):
    """The recorder reads the order off the contexts; following it by hand gives the same
    charges.
    """
    for place_L, nats_L, rows_LV, ids_L in zip(
        *probes.chain_scorer(log_probs, V, order, block=2, seed=4)(WINDOWS), WINDOWS, strict=True
    ):
        current = np.full(L, V)
        for position in np.argsort(place_L):
            row = log_probs(torch.from_numpy(current[None]))[0, position]
            assert np.array_equal(rows_LV[position], row.numpy())
            assert nats_L[position] == pytest.approx(-float(row[ids_L[position]]), abs=1e-12)
            current[position] = ids_L[position]


def test_an_honest_causal_model_passes_and_one_that_peeks_does_not():
    assert (
        validity.unchanged_charges(look({"ar": probes.causal_scorer(causal_model())})).verdict
        == "pass"
    )
    for peek in (1, 2):  # at the token itself, at the one after it
        found = look({"ar": probes.causal_scorer(causal_model(peek))})
        assert (
            validity.unchanged_charges(found).verdict == "fail"
            and validity.unchanged_order(found).verdict == "pass"
        )
        assert "still hidden" in validity.unchanged_charges(found).evidence


def charged(rows: torch.Tensor, ids_BL: torch.Tensor) -> np.ndarray:
    """Return the charges that distributions (B, L, V) put on tokens."""
    return -rows.gather(-1, ids_BL[..., None])[..., 0].numpy()


def test_a_pseudo_likelihood_is_peeking():
    """Each token given all the others."""

    def scorer(ids_NL):
        ids_BL, hidden = torch.from_numpy(ids_NL), torch.eye(L, dtype=torch.bool)
        rows = torch.stack(
            [log_probs(ids_BL.masked_fill(hidden[i], V))[:, i] for i in range(L)], dim=1
        )
        return probes.Scored(
            np.tile(np.arange(L), (len(ids_NL), 1)), charged(rows, ids_BL), rows.numpy()
        )

    assert validity.unchanged_charges(look({"pseudo": scorer})).verdict == "fail"


def test_an_order_from_the_target_is_caught():
    """Confidence in the true token chooses the next position: charges are honest conditionals, the
    order is not.
    """

    def scorer(ids_NL):
        ids_BL = torch.from_numpy(ids_NL)
        current, place, rows = (
            torch.full_like(ids_BL, V),
            np.zeros(ids_NL.shape, int),
            torch.zeros(*ids_BL.shape, V, dtype=torch.float64),
        )
        for step in range(L):
            answer = log_probs(current)
            chosen = (
                answer.gather(-1, ids_BL[..., None])[..., 0]
                .masked_fill(current != V, -math.inf)
                .argmax(dim=1)
            )
            for row, position in enumerate(chosen.tolist()):
                place[row, position], rows[row, position] = step, answer[row, position]
                current[row, position] = ids_BL[row, position]
        return probes.Scored(place, charged(rows, ids_BL), rows.numpy())

    found = look({"target": scorer})
    assert (
        validity.unchanged_order(found).verdict == "fail"
        and validity.charged_once(found).verdict == "pass"
    )


def test_a_position_that_is_never_charged_is_caught():
    def scorer(ids_NL):
        scored = probes.chain_scorer(log_probs, V, "left-to-right")(ids_NL)
        scored.place_NL[:, 2] = scored.place_NL[:, 1]
        return scored

    assert validity.charged_once(look({"skips": scorer})).verdict == "fail"


@pytest.mark.parametrize("discount", [1e-3, 0.5])
def test_a_charge_that_is_not_the_distributions_is_caught(discount):
    def scorer(ids_NL):
        scored = probes.chain_scorer(log_probs, V, "random")(ids_NL)
        return scored._replace(nats_NL=scored.nats_NL - discount)

    found = validity.unchanged_charges(look({"cheap": scorer}))
    assert found.verdict == "fail" and "off the distribution" in found.evidence


def test_windows_that_miss_repeat_or_alter_tokens_are_counted(stream):
    ids = np.arange(1, 24)
    groups = evaluation_windows(stream(ids[:9], ids[9:]), 5, None)
    assert probes.uncovered(groups, ids) == 0
    assert probes.uncovered(groups[:1], ids) == 3  # the short last window
    assert probes.uncovered([*groups, groups[-1]], ids) == 3
    swapped = [Windows(groups[0].ids_NL[::-1], groups[0].previous_N), groups[1]]
    assert probes.uncovered(swapped, ids) == 20
    blind = [Windows(group.ids_NL, np.full(len(group.ids_NL), -1)) for group in groups]
    assert probes.uncovered(blind, ids) == len(blind[0].ids_NL) + len(blind[1].ids_NL) - 1
    assert probes.uncovered([], ids) == len(ids)


# Hidden text


def random_ids(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1024, count)


HIDDEN = random_ids(20_000, 0).astype("<u2").tobytes()
ANCHORS = hidden.Anchors(HIDDEN, random_ids(20_000, 1).astype("<u2").tobytes())


@settings(max_examples=60)
@given(
    start=st.integers(0, 30_000),
    size=st.integers(0, 400),
    before=st.integers(0, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_longest_stretch_is_found_at_any_offset(start, size, before, seed):
    """All anchors inside the stretch, wherever text and layer begin; random bytes around it add
    none.
    """
    noise = np.random.default_rng(seed).bytes(before + 50)
    layer = noise[:before] + HIDDEN[start : start + size] + noise[before:]
    first = -(-start // hidden.BLOCK)
    whole = max((start + size) // hidden.BLOCK - first, 0)
    found = ANCHORS.longest(layer)
    assert found.anchors == whole
    if whole:
        assert (found.at, found.source) == (
            before + first * hidden.BLOCK - start,
            first * hidden.BLOCK,
        )


def test_what_training_text_holds_too_is_not_hidden():
    shared = HIDDEN[3205:3605]
    anchors = hidden.Anchors(HIDDEN, b"x" * 7 + shared)
    assert ANCHORS.longest(shared).anchors == 24 and anchors.longest(shared).anchors == 0
    assert anchors.longest(HIDDEN[2805:3605]).anchors == 25  # up to where the shared stretch begins


def test_rulers_and_padding_are_no_anchors():
    assert len(hidden.Anchors(b"-" * 400 + b"\0\1" * 100).keys) == 0
    assert hidden.Anchors(b"").longest(b"anything at all") == hidden.Run(0, 0, 0)


SECRET = HIDDEN[1000:1640]
IDS = np.frombuffer(SECRET, "<u2")
DISGUISES = {
    "base64": lambda: f"X = {base64.b64encode(SECRET).decode()!r}".encode(),
    "base85 of zlib": lambda: (
        f"import zlib\nX = {base64.b85encode(zlib.compress(SECRET)).decode()!r}".encode()
    ),
    "hexadecimal": lambda: f"X = {SECRET.hex()!r}".encode(),
    "bytes": lambda: f"X = {SECRET!r}".encode(),
    "list of integers": lambda: f"X = {IDS.tolist()!r}".encode(),
    "pieces of a string": lambda: (
        f"X = ''.join({[base64.b64encode(SECRET).decode()[i : i + 60] for i in range(0, 900, 60)]!r})".encode()
    ),
    "base64 in JSON": lambda: b'{"recipe": "' + base64.b64encode(SECRET) + b'"}',
    "zlib": lambda: zlib.compress(SECRET),
    "32 bits": lambda: IDS.astype("<i4").tobytes(),
    "64 bits, odd offset": lambda: b"abc" + IDS.astype("<i8").tobytes(),
    "big-endian": lambda: b"a" + IDS.astype(">u2").tobytes(),
    "big-endian 32 bits": lambda: IDS.astype(">i4").tobytes(),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_disguises_are_seen_through(disguise):
    name = "a.py" if DISGUISES[disguise]().startswith((b"X", b"import")) else "a.bin"
    longest = max(
        ANCHORS.longest(spelled)
        for _, layer in hidden.layers(name, DISGUISES[disguise]())
        for spelled in hidden.spellings(layer)
    )
    assert longest.anchors >= 640 // hidden.BLOCK - 2


def test_readable_is_what_the_tokenizer_decodes(layout):
    from fast.bytes import load_tokenizer

    tokenizer = load_tokenizer(layout.tokenizer)
    ids = np.asarray(Tokens(layout.validation).read(0, 3000), np.int64)
    pieces = [
        tokenizer.processor.decode([int(token)])
        for token in ids
        if not tokenizer.table.control_V[token]
    ]
    text = validity.readable(ids, tokenizer).decode("utf-8", "ignore")
    assert all(piece in text for piece in pieces if "�" not in piece)
    start, stop = next(tables.documents(ids, tokenizer))
    assert tokenizer.processor.decode(ids[start:stop].tolist()).strip() in text


# Bytes per token


CONSTANTS = {
    "a literal": "def f(loss):\n    bpb = loss / math.log(2) / 2.41\n",
    "per token": "def f(bits, tokens):\n    val_bpb = bits / (tokens * 4.3)\n",
    "tokens per byte": "tokens_per_byte = 0.41\nval_bpb = loss / math.log(2) * tokens_per_byte\n",
    "through names": (
        "RATE = 2.436\ndef f(loss):\n    bits = loss / math.log(2.0)\n    r = RATE\n    bpb = bits"
        " / r\n"
    ),
    "a class": (
        "class H:\n    bytes_per_token = 2.44\ndef f(args, loss):\n    return loss / math.log(2) /"
        " args.bytes_per_token\n"
    ),
    "an environment variable": (
        "bytes_per_token = float(os.environ.get('BYTES_PER_TOKEN', '2.41'))\nbpb = loss /"
        " bytes_per_token\n"
    ),
    "returned": "def bits_per_byte(loss):\n    return loss * 1.4427 / 3.5\n",
    "a tuple": "def f(loss):\n    val_loss, val_bpb = loss, loss / 0.6931 / 2.4\n",
}
COUNTED = (
    (
        "def f():\n    bits_per_token = val_loss.item() / math.log(2.0)\n    tokens_per_byte ="
        " val_token_count.item() / val_byte_count.item()\n    return float(val_loss.item()),"
        " float(bits_per_token * tokens_per_byte)\n"
    ),
    "bpb = (val_loss.item() / math.log(2.0)) * (token_count.item() / byte_count.item())\n",
    "def f():\n    bpb = float(bits_N.sum()) / total_bytes\n",
    "r_bpb = r_loss / math.log(2.0) * (cur_tokens / max(cur_bytes_val, 1))\n",
    (
        "def f():\n    factor = 10.0\n    limit = 4.5 * factor\n    bpb = nats / math.log(2) /"
        " n_bytes\n"
    ),
)


@pytest.mark.parametrize("case", CONSTANTS)
def test_constants_of_bytes_per_token_are_found(case):
    import ast

    assert tables.constants(ast.parse(CONSTANTS[case]))[0]


@pytest.mark.parametrize("code", COUNTED)
def test_counted_bytes_are_no_constant(code):
    import ast

    fixed, uncounted, counted = tables.constants(ast.parse(code))
    assert (fixed, uncounted) == ([], []) and counted >= 1


def test_bits_per_token_alone_are_not_called_right():
    import ast

    assert tables.constants(ast.parse("val_bpb = val_loss.item() / math.log(2.0)\n")) == (
        [],
        ["val_bpb (line 1)"],
        0,
    )


def test_the_table_agrees_with_decoded_text_and_spoilt_ones_do_not(layout):
    from fast.bytes import load_tokenizer, token_bytes

    tokenizer = load_tokenizer(layout.tokenizer)
    ids = Tokens(layout.validation).read(0, 12_000)
    table = tokenizer.table
    compared = tables.miscounted(ids, tokenizer, partial(token_bytes, table=table))
    assert compared.wrong == [] and compared.counted == compared.decoded > 0
    is_byte_V = np.array([tokenizer.processor.is_byte(token) for token in range(tokenizer.vocab)])
    spoilt = {
        "byte pieces by name": table._replace(length_V=np.where(is_byte_V, 6, table.length_V)),
        "space mark of three bytes": table._replace(length_V=table.length_V + 2 * table.space_V),
        "no leading space": table._replace(space_V=np.zeros_like(table.space_V)),
        "control tokens counted": table._replace(length_V=table.length_V + 3 * table.control_V),
        "one byte more": ByteTable(table.length_V + 1, table.space_V, table.control_V),
    }
    for what, other in spoilt.items():
        if what != "byte pieces by name" or is_byte_V[ids].any():
            assert tables.miscounted(ids, tokenizer, partial(token_bytes, table=other)).wrong, what


# Python versions and imports


@pytest.mark.parametrize(
    ("code", "version"),
    [
        ("try:\n    pass\nexcept* ValueError:\n    pass\n", (3, 10)),
        ("def f[T](x: T) -> T:\n    return x\n", (3, 11)),
        ("type X = int\n", (3, 11)),
        ('f"{x["a"]}"\n', (3, 11)),
        ("f'{x + '\\n'}'\n", (3, 11)),
        ("f'{'a'}'\n", (3, 11)),
        ("def f(:\n", (3, 12)),
    ],
)
def test_newer_syntax_is_refused_with_its_line(code, version):
    problem = portable.syntax_error(b"x = 1\n" + code.encode(), version)
    assert problem and ("line" in problem)


def test_syntax_that_all_versions_read():
    code = (
        b"match x:\n    case {'a': 1}:\n        pass\nprint(f\"{x['a']!r:>{w}} {y}\", f'{{}}',"
        b" f'''{z[\"b\"]}''')\n"
    )
    assert all(portable.syntax_error(code, version) is None for version in portable.VERSIONS)


def folder(tmp_path, **files) -> Submission:
    for name, text in files.items():
        (tmp_path / name.replace("__", ".")).write_text(text)
    return Submission(tmp_path, Options(run=True, time_limit=60.0))


def test_imports_come_from_requirements_the_folder_or_the_standard_library(tmp_path):
    code = (
        "import os, numpy, helper\nfrom lz4 import block\nimport yaml\ntry:\n    import"
        " brotli\nexcept ImportError:\n    brotli = None\n"
    )
    made = folder(
        tmp_path,
        train_gpt__py=code,
        helper__py="import json\n",
        requirements__txt="# all\nlz4==4.4.5\nPyYAML\n",
    )
    found = portable.imports(made)
    assert found.verdict == "pass" and "brotli (train_gpt.py:5)" in found.evidence


@pytest.mark.parametrize(
    "code",
    [
        "import zstandard\n",
        "def f():\n    import zstandard\n",
        "try:\n    import zstandard\nexcept KeyError:\n    pass\n",
    ],
)
def test_a_package_that_nobody_lists_is_named(tmp_path, code):
    found = portable.imports(folder(tmp_path, train_gpt__py=code, requirements__txt="numpy\n"))
    assert found.verdict == "fail" and "zstandard (train_gpt.py:" in found.evidence


def test_a_package_that_only_the_readme_names_is_not_judged(tmp_path):
    with pytest.raises(CannotTell, match="by hand.*flash_attn"):
        portable.imports(
            folder(
                tmp_path,
                train_gpt__py="import flash_attn\n",
                README__md="First pip install flash-attn.\n",
            )
        )


# The sandbox


def executed(tmp_path, code: str, kernel: bool, monkeypatch, seconds: float = 60.0):
    if not kernel:
        monkeypatch.setattr(sandbox, "has_namespaces", lambda: False)
    with sandbox.Box(folder(tmp_path, train_gpt__py=code)) as box:
        return box.run(["train_gpt.py"], seconds, {"DATA_PATH": "here"})


KERNELS = [False, True] if sandbox.has_namespaces() else [False]


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_honest_program_runs_and_sees_no_secret(tmp_path, kernel, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    code = (
        "import os, tempfile\nopen('made',"
        " 'w').write('x')\ntempfile.TemporaryFile().write(b'x')\nprint(sorted(os.environ),"
        " os.environ['DATA_PATH'])\n"
    )
    ran = executed(tmp_path, code, kernel, monkeypatch)
    assert ran.code == 0 and ran.kernel == kernel, ran.err
    assert "SECRET_TOKEN" not in ran.out and "here" in ran.out
    assert not ran.noted("write") and not ran.noted("network") and not (tmp_path / "made").exists()


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_leaves_the_folder_is_refused_and_noted(tmp_path, kernel, monkeypatch):
    outside = tmp_path / "outside"
    code = f"""
import os, pathlib, socket
def tried(action):
    try:
        action()
    except OSError:
        pass
tried(lambda: open({str(outside)!r}, "w"))
tried(lambda: os.mkdir({str(outside)!r}))
tried(lambda: os.rename("train_gpt.py", {str(outside)!r}))
tried(lambda: socket.create_connection(("192.0.2.1", 80), 1))
tried(lambda: socket.getaddrinfo("example.com", 80))
"""
    ran = executed(tmp_path, code, kernel, monkeypatch)
    assert ran.code == 0, ran.err
    assert len(ran.noted("write")) == 3 and len(ran.noted("network")) == 2 and not outside.exists()


def test_our_packages_are_not_there(tmp_path, monkeypatch):
    ran = executed(tmp_path, "import fast\n", False, monkeypatch)
    assert ran.code == 1 and "No module named 'fast'" in ran.err


def test_a_program_that_hangs_ends_with_its_children(tmp_path, monkeypatch):
    code = (
        "import subprocess, sys, time\nchild = subprocess.Popen([sys.executable, '-c', 'import"
        " time; time.sleep(600)'])\nprint(child.pid)\ntime.sleep(600)\n"
    )
    ran = executed(tmp_path, code, False, monkeypatch, seconds=3.0)
    assert ran.code is None and "python" in ran.noted("start")[0]
    pid = int(ran.out)
    import os

    with pytest.raises(ProcessLookupError):
        for _ in range(200):  # reaped by whoever is init here
            os.kill(pid, 0)
            if "Z" in open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]:
                raise ProcessLookupError


def test_memory_is_bounded(tmp_path, monkeypatch):
    ran = executed(tmp_path, "x = bytearray(1 << 36)\n", False, monkeypatch)
    assert ran.code == 1 and "MemoryError" in ran.err


# The score


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("nelbo", ("nelbo", None)),
        ("nelbo-grid", ("nelbo-grid", None)),
        ("chain left-to-right", ("chain", "left-to-right")),
        ("chain (confidence)", ("chain", "confidence")),
        ("", None),
        ("sliding window", None),
    ],
)
def test_estimators_by_name(named, expected):
    effort = rescore.effort_of(named, False, 0.001)
    assert (effort and (effort.estimator, effort.order)) == expected


@pytest.mark.parametrize(
    ("total", "wanted"), [(1, 1), (10, 3), (1000, 17), (1000, 16), (50, 49), (7, 9)]
)
def test_ranges_are_disjoint_and_as_many_as_asked(total, wanted):
    chosen = rescore.ranges(total, wanted)
    windows = [index for start, stop in chosen for index in range(start, stop)]
    assert (
        len(windows) == len(set(windows)) == min(total, wanted)
        and 0 <= min(windows)
        and max(windows) < total
    )


@pytest.mark.parametrize(
    ("value", "half"), [(1.1465, 5e-5), (2.0, 0.05), (1e-07, 5e-8), (3, 0.5), (1.5e-5, 5e-7)]
)
def test_rounding_is_half_a_unit_of_the_last_digit(value, half):
    assert rescore.rounding(value) == pytest.approx(half)


@pytest.mark.parametrize(
    ("tokens", "same"),
    [
        (62_021_845, True),
        (62_021_632, True),
        (62_013_440, True),
        (62_021_846, False),
        (60_000_000, False),
        (0, False),
    ],
)
def test_counts_of_the_official_set(tokens, same):
    assert score.same_text(tokens, score.OFFICIAL_TOKENS) == same


def log_folder(tmp_path, *lines) -> Submission:
    (tmp_path / "train.log").write_text("\n".join(lines) + "\n")
    return Submission(tmp_path, Options())


def test_the_official_uniform_score_is_known(tmp_path):
    """The challenge's own baseline line, whose loss and bits per byte imply the official bytes per
    token.
    """
    made = log_folder(
        tmp_path,
        "val_loader:shards pattern=x tokens:62021632",
        "final_int8_zlib_roundtrip_exact val_loss:2.06493 val_bpb:1.22297",
    )
    found = score.byte_accounting(made)
    assert found.verdict == "pass" and "4.1052" in found.evidence


def test_the_official_counts_are_known(tmp_path):
    """Without data: the official set's own counts pass, its tokens with other bytes fail, other
    counts need the data.
    """
    line = "final_exact val_loss:2.06493 val_bpb:1.22297 tokens:{} bytes:{} estimator:nelbo"
    assert (
        score.tokens_and_bytes(log_folder(tmp_path, line.format(62_021_845, 151_080_891))).verdict
        == "pass"
    )
    assert (
        score.tokens_and_bytes(log_folder(tmp_path, line.format(62_021_845, 151_080_892))).verdict
        == "fail"
    )
    with pytest.raises(CannotTell, match="--data"):
        score.tokens_and_bytes(log_folder(tmp_path, line.format(60_000_000, 151_080_891)))


def test_bytes_that_nobody_counted_show_in_the_quotient(tmp_path):
    made = log_folder(
        tmp_path,
        "val_loader:shards pattern=x tokens:62021632",
        "final_roundtrip val_loss:2.0649 val_bpb:1.2129",
    )
    found = score.byte_accounting(made)
    assert found.verdict == "fail" and "imply 2.456" in found.evidence


def test_training_shards_by_name():
    import ast

    honest = (
        "train_files = os.path.join(path, 'fineweb_train_*.bin')\nval_files = os.path.join(path,"
        " 'fineweb_val_*.bin')\n"
    )
    assert (
        execution.mixed_up(
            ast.parse(honest + "loader = DistributedTokenLoader(args.train_files, 0)\n")
        )
        == []
    )
    for guilty in (
        "train_files = os.path.join(path, 'fineweb_val_*.bin')",
        "train_files = glob.glob(path + '/*.bin')",
        "train_files = sorted(glob('fineweb_*.bin'))",
        "calib_loader = DistributedTokenLoader(args.val_files, 0)",
    ):
        assert execution.mixed_up(ast.parse(honest + guilty + "\n")), guilty


def test_interpreters_agree_on_what_they_can_read():
    """The guard is a plain file that any supported interpreter loads."""
    source = (sandbox.Path(sandbox.__file__).with_name("guard.py")).read_bytes()
    assert all(portable.syntax_error(source, version) is None for version in portable.VERSIONS)
