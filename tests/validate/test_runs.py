"""The parts of checks that execute or score: hidden text, constants, versions and imports, the
sandbox, counts.
"""

import ast
import base64
import importlib.util
import json
import os
import sys
import time
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fast.bytes import ByteTable, load_tokenizer, token_bytes
from fast.data import Tokens
from harness.validate import byte_table, hidden, rates, rescore, sandbox
from harness.validate.checks import runs, score, validity
from harness.validate.submission import Options, Submission
from harness.validate.verdict import CannotTell
from reference.recipe import ESTIMATORS

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
    tokenizer = load_tokenizer(layout.tokenizer)
    ids = np.asarray(Tokens(layout.validation).read(0, 3000), np.int64)
    pieces = [
        tokenizer.processor.decode([int(token)])
        for token in ids
        if not tokenizer.table.control_V[token]
    ]
    text = validity.readable(ids, tokenizer).decode("utf-8", "ignore")
    assert all(piece in text for piece in pieces if "�" not in piece)
    start, stop = next(byte_table.documents(ids, tokenizer))
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
    assert rates.constants(ast.parse(CONSTANTS[case]))[0]


@pytest.mark.parametrize("code", COUNTED)
def test_counted_bytes_are_no_constant(code):
    fixed, uncounted, counted = rates.constants(ast.parse(code))
    assert (fixed, uncounted) == ([], []) and counted >= 1


def test_bits_per_token_alone_are_not_called_right():
    assert rates.constants(ast.parse("val_bpb = val_loss.item() / math.log(2.0)\n")) == (
        [],
        ["val_bpb (line 1)"],
        0,
    )


def test_the_table_agrees_with_decoded_text_and_spoilt_ones_do_not(layout):
    tokenizer = load_tokenizer(layout.tokenizer)
    ids = Tokens(layout.validation).read(0, 12_000)
    table = tokenizer.table
    compared = byte_table.miscounted(ids, tokenizer, partial(token_bytes, table=table))
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
            assert byte_table.miscounted(ids, tokenizer, partial(token_bytes, table=other)).wrong, (
                what
            )


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
    problem = runs.syntax_error(b"x = 1\n" + code.encode(), version)
    assert problem and ("line" in problem)


def test_syntax_that_all_versions_read():
    code = (
        b"match x:\n    case {'a': 1}:\n        pass\nprint(f\"{x['a']!r:>{w}} {y}\", f'{{}}',"
        b" f'''{z[\"b\"]}''')\n"
    )
    assert all(runs.syntax_error(code, version) is None for version in runs.VERSIONS)


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
    found = runs.imports(made)
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
    found = runs.imports(folder(tmp_path, train_gpt__py=code, requirements__txt="numpy\n"))
    assert found.verdict == "fail" and "zstandard (train_gpt.py:" in found.evidence


def test_a_package_that_only_the_readme_names_is_not_judged(tmp_path):
    with pytest.raises(CannotTell, match="by hand.*flash_attn"):
        runs.imports(
            folder(
                tmp_path,
                train_gpt__py="import flash_attn\n",
                README__md="First pip install flash-attn.\n",
            )
        )


# The sandbox


def executed(tmp_path, code: str, seconds: float = 60.0):
    with sandbox.Box(folder(tmp_path, train_gpt__py=code)) as box:
        return box.run(["train_gpt.py"], seconds, {"DATA_PATH": "here"})


namespaces = pytest.mark.skipif(
    not sandbox.has_namespaces(), reason="this system has no namespaces"
)


def test_nothing_is_executed_where_the_kernel_holds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "has_namespaces", lambda: False)
    made = folder(tmp_path, train_gpt__py="print(1)\n")
    for execution in (runs.runs_alone, runs.trains, runs.no_network, score.script_table):
        with pytest.raises(CannotTell, match="namespaces"):
            execution(made)


@namespaces
def test_an_honest_program_runs_and_sees_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    code = (
        "import os, tempfile\nopen('made',"
        " 'w').write('x')\ntempfile.TemporaryFile().write(b'x')\nprint(sorted(os.environ),"
        " os.environ['DATA_PATH'])\n"
    )
    ran = executed(tmp_path, code)
    assert ran.code == 0, ran.err
    assert "SECRET_TOKEN" not in ran.out and "here" in ran.out
    assert not ran.noted("write") and not ran.noted("network") and not (tmp_path / "made").exists()


@namespaces
def test_what_leaves_the_folder_is_refused_and_noted(tmp_path):
    outside = tmp_path / "outside"
    code = f"""
import os, pathlib, socket
def refused(action):
    try:
        action()
    except OSError:
        return True
print([
    refused(lambda: open({str(outside)!r}, "w")),
    refused(lambda: os.mkdir({str(outside)!r})),
    refused(lambda: os.rename("train_gpt.py", {str(outside)!r})),
    refused(lambda: socket.create_connection(("192.0.2.1", 80), 1)),
    refused(lambda: socket.getaddrinfo("example.com", 80)),
])
"""
    ran = executed(tmp_path, code)
    assert ran.code == 0 and ran.out.strip() == str([True] * 5), ran
    assert len(ran.noted("write")) == 3 and not outside.exists()
    assert ["192.0.2.1" in note for note in ran.noted("network")] == [True, True, False]


@namespaces
def test_a_program_that_notes_nothing_is_held_all_the_same(tmp_path):
    """The kernel refuses what the observer does not see."""
    outside = tmp_path / "outside"
    code = f"import ctypes\nlibc = ctypes.CDLL(None)\nprint(libc.mkdir({str(outside).encode()!r}, 448))\n"
    ran = executed(tmp_path, code)
    assert ran.out == "-1\n" and not ran.noted("write") and not outside.exists()


@namespaces
def test_our_packages_are_not_there(tmp_path):
    ran = executed(tmp_path, "import fast\n")
    assert ran.code == 1 and "No module named 'fast'" in ran.err


@namespaces
def test_a_program_that_hangs_ends_with_its_children(tmp_path):
    code = (
        "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c',"
        f" 'import time; time.sleep(600); {tmp_path}'])\nprint('started')\ntime.sleep(600)\n"
    )
    ran = executed(tmp_path, code, seconds=5.0)
    assert ran.code is None and ran.out == "started\n"
    for _ in range(100):
        running = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
        if not any(str(tmp_path).encode() in command for command in running):
            return
        time.sleep(0.1)
    pytest.fail("the child still runs")


@namespaces
def test_memory_is_bounded(tmp_path):
    ran = executed(tmp_path, "x = bytearray(1 << 36)\n")
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
    effort = rescore.effort_of(named, ESTIMATORS, 0.001)
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
    honest = (
        "train_files = os.path.join(path, 'fineweb_train_*.bin')\nval_files = os.path.join(path,"
        " 'fineweb_val_*.bin')\n"
    )
    loader = "loader = DistributedTokenLoader(args.train_files, 0)\n"
    assert list(validity.mixed_up(ast.parse(honest + loader))) == []
    for guilty in (
        "train_files = os.path.join(path, 'fineweb_val_*.bin')",
        "train_files = glob.glob(path + '/*.bin')",
        "train_files = sorted(glob('fineweb_*.bin'))",
        "calib_loader = DistributedTokenLoader(args.val_files, 0)",
    ):
        assert list(validity.mixed_up(ast.parse(honest + guilty + "\n"))), guilty


def test_interpreters_agree_on_what_they_can_read():
    """The observer is a plain file that any supported interpreter loads."""
    source = (sandbox.Path(sandbox.__file__).with_name("observer.py")).read_bytes()
    assert all(runs.syntax_error(source, version) is None for version in runs.VERSIONS)


# The observer's rules, without a program


@pytest.fixture
def observed(tmp_path, monkeypatch):
    """Return (audit hook, finder, function that gives the notes) of an observer in a box; nothing
    of it stays in this process.
    """
    folder, hooks = tmp_path / "box" / "observer", []
    folder.mkdir(parents=True)
    found = importlib.util.find_spec("harness.validate.observer")
    code = found.loader.get_code("harness.validate.observer")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "addaudithook", hooks.append)
        patched.setattr(sys, "meta_path", [])
        names = {"__name__": "sitecustomize", "__file__": str(folder / "sitecustomize.py")}
        exec(code, names)  # what it imports is here already
        [finder], [hook] = sys.meta_path, hooks

    def notes() -> list[tuple[str, str]]:
        lines = (folder / "notes").read_text().splitlines()
        return [tuple(json.loads(line)) for line in lines]

    assert notes() == [("ready", sys.version.split()[0])]
    assert (folder / "notes").stat().st_mode & 0o777 == 0o600
    return hook, finder, lambda: notes()[1:]


R, W = os.O_RDONLY, os.O_WRONLY
BEYOND = {
    "open": [("/elsewhere/a", "w", W), ("/elsewhere/a", None, os.O_RDWR), (b"/elsewhere/a", "", W)],
    "open to add": [("/elsewhere/a", "a", os.O_APPEND), ("/elsewhere/a", "", os.O_CREAT)],
    "os.remove": [("/elsewhere/a", -1), (Path("/elsewhere/a"),)],
    "os.mkdir": [("/elsewhere/a", 0o777, -1)],
    "os.rename": [("/elsewhere/a", "{box}/b", -1, -1), ("{box}/b", "/elsewhere/a", -1, -1)],
    "os.symlink": [("/etc/passwd", "/elsewhere/a", -1), ("{box}/b", "/elsewhere/a", -1)],
    "shutil.rmtree": [("/elsewhere/a", None)],
    "open in the observer": [("{box}/observer/notes", "w", W)],
}
WITHIN = {
    "open": [
        ("{box}/folder/a", "w", W),
        ("/dev/null", "w", W),
        ("/elsewhere/a", "r", R),
        (3, "w", W),
        ("/elsewhere/a", "r", None),
    ],
    "os.remove": [("{box}/a", -1)],
    "os.rename": [("{box}/a", "{box}/b", -1, -1)],
    "os.symlink": [("/etc/passwd", "{box}/b", -1)],
    "os.listdir": [("/elsewhere",)],
    "os.link": [("/etc/passwd",)],
}


@pytest.mark.parametrize("case", BEYOND)
def test_changes_beyond_the_box_are_noted(case, observed, tmp_path):
    hook, _, notes = observed
    event = case.partition(" ")[0]
    place = f"{tmp_path}/box/observer/notes" if "observer" in case else "/elsewhere/a"
    for count, arguments in enumerate(BEYOND[case], 1):
        hook(event, tuple(_placed(argument, tmp_path) for argument in arguments))
        assert notes() == [("write", f"{event} {place}")] * count


@pytest.mark.parametrize("event", WITHIN)
def test_changes_within_the_box_are_not_noted(event, observed, tmp_path):
    hook, _, notes = observed
    for arguments in WITHIN[event]:
        hook(event, tuple(_placed(argument, tmp_path) for argument in arguments))
    assert notes() == []


def _placed(argument, home: Path):
    """Return an argument with the box's folder put in."""
    return argument.format(box=home / "box") if isinstance(argument, str) else argument


def test_addresses_beyond_the_machine_are_noted(observed):
    hook, _, notes = observed
    far, near, local = ("192.0.2.1", 443), ("127.0.0.1", 443), "/run/socket"
    for event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        for address in (far, near, ("::1", 1, 0, 0), ("localhost", 1), ("", 1), local, b"/run/s"):
            hook(event, (None, address))
    for event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        for host in ("example.org", b"example.org", "localhost", None, ""):
            hook(event, (host, 443))
    expected = [f"{event} {far}" for event in ("socket.connect", "socket.sendto", "socket.sendmsg")]
    for event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        expected += [f"{event} example.org", f"{event} {b'example.org'}"]
    assert notes() == [("network", text) for text in expected]


def test_a_note_is_no_longer_than_a_line(observed):
    hook, _, notes = observed
    hook("os.remove", ("/elsewhere/" + "a" * 1000, -1))
    [(kind, what)] = notes()
    assert kind == "write" and len(what) == 300 and what.startswith("os.remove /elsewhere/aaa")


def test_our_packages_are_hidden_unless_the_folder_has_them(observed, tmp_path, monkeypatch):
    _, finder, _ = observed
    monkeypatch.chdir(tmp_path)
    for name in ("harness", "fast.train", "reference", "tests.support"):
        with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'") as caught:
            finder.find_spec(name)
        assert caught.value.name == name
    assert finder.find_spec("fastai") is None
    (tmp_path / "fast").mkdir()
    (tmp_path / "harness.py").touch()
    assert finder.find_spec("fast.train") is finder.find_spec("harness") is None
