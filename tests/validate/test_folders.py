"""maskgolf validate: a good folder passes, a planted defect is caught by its check and by no
unrelated one, nothing makes it fall.
"""

import base64
import io
import json
import lzma
import os
import pickle
import sys
import zipfile
import zlib
from pathlib import Path

import brotli
import hypothesis
import pytest
from hypothesis import strategies as st

from harness import cli, validate
from harness.validate import archives, model, numbers, source, submission, training_log
from harness.validate.submission import Options, Submission
from harness.validate.verdict import SEVERITIES, VERDICTS, CannotTell, Check, failed, passed
from tests.validate.submissions.defects import DEFECTS

SEEDS = ("mean over seeds", "seeds in logs", "one configuration")
STATIC = tuple(
    check
    for check in validate.CHECKS
    if check.group in ("folder", "bytes", "log", "safety") or check.name in SEEDS
)
TEXTS = ("*.py", "*.sh", "*.md", "*.log", "*.txt")
TREES = "mask rates, tokens charged, order of conditioning, charged before learned, sums to one"
READS = {  # slow checks that depend on these files alone
    **dict.fromkeys(("Python versions", "bytes per token"), ("*.py",)),
    **dict.fromkeys(("training data", *TREES.split(", ")), TEXTS),
}


def verdicts(folder: Path, **options) -> dict[str, dict]:
    """Return the rows of a validation by check."""
    return {row["check"]: row for row in validate.validate(folder, **options)}


def unchanged(folder: Path, good: Path, patterns: tuple[str, ...]) -> bool:
    """Return whether the files of these patterns are those of the good folder."""
    here, there = (
        {
            path.relative_to(place): path.read_bytes()
            for pattern in patterns
            for path in place.rglob(pattern)
        }
        for place in (folder, good)
    )
    return here == there


def test_good_folder_passes_every_check(packed, corpus):
    """Nothing fails, and nothing is left open but what needs --run."""
    rows = verdicts(packed, data=corpus)
    assert {name: row["evidence"] for name, row in rows.items() if row["verdict"] == "fail"} == {}
    assert {row["evidence"] for row in rows.values() if row["verdict"] == "cannot tell"} == {
        "nothing is executed without --run"
    }


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_defect_is_caught_by_its_check_alone(defect, good, packed):
    """The intended check fails; of the others only those fail that see the same fact by
    construction.
    """
    folder = defect.plant(good) or good
    checks = tuple(
        check
        for check in validate.CHECKS
        if check.name not in READS or not unchanged(folder, packed, READS[check.name])
    )
    rows = verdicts(folder, checks=checks)
    assert rows[defect.check]["verdict"] == "fail", rows[defect.check]["evidence"]
    unrelated = {
        name: row["evidence"]
        for name, row in rows.items()
        if row["verdict"] == "fail" and name not in (defect.check, *defect.also)
    }
    assert unrelated == {}
    assert [
        row["evidence"]
        for row in rows.values()
        if row["evidence"].startswith("the check itself failed")
    ] == []


def test_every_check_here_has_caught_something():
    """A check that no defect turns red is not yet a check."""
    # These say no more than "cannot tell"
    assert {check.name for check in STATIC} - {defect.check for defect in DEFECTS} == {
        "loading weights",
        "readable code",
    }
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS) >= 35


def test_what_checks_share_is_worked_out_once(tmp_path):
    """A reason for "cannot tell" as well as a value, and each submission for itself."""
    asked = []

    @model.once
    def shared(submission):
        asked.append(submission)
        if submission.root.name == "bad":
            raise CannotTell("no such thing")
        return submission.root.name

    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    good, bad = (Submission(tmp_path / name, Options()) for name in ("good", "bad"))
    assert [shared(good), shared(good)] == ["good", "good"]
    for _ in range(2):
        with pytest.raises(CannotTell, match="no such thing"):
            shared(bad)
    assert asked == [good, bad]


def test_checks_are_named_once_and_explained():
    """Names are unique; --explain has something to say about each."""
    names = [check.name for check in validate.CHECKS]
    assert len(set(names)) == len(names)
    for check in validate.CHECKS:
        assert check.group in validate.GROUPS
        explained = validate.explain(check.name)
        assert set(explained) == {"check", "group", "severity", "what", "caught", "fix"} and all(
            len(text) >= 3 for text in explained.values()
        )


def test_json_has_its_frozen_shape(packed, capsys):
    """SPEC section 13: a list of check, severity, verdict, evidence; more fields may be added, none
    may go.
    """
    assert cli.main(["validate", str(packed), "--strict", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert isinstance(rows, list) and [row["check"] for row in rows] == [
        check.name for check in validate.CHECKS
    ]
    for row in rows:
        assert (
            set(row) >= {"check", "group", "severity", "verdict", "evidence"}
            and row["severity"] in SEVERITIES
            and row["verdict"] in VERDICTS
            and isinstance(row["evidence"], str)
        )


def test_the_embedded_text_has_a_name(packed, corpus, capsys, monkeypatch, tmp_path):
    """--data embedded is the text that ships with Python; a folder of that name comes first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.corpus.prepare.embedded", lambda: corpus)
    assert cli.main(["validate", str(packed), "--data", "embedded", "--strict", "--json", "-"]) == 0
    assert {row["check"]: row["verdict"] for row in json.loads(capsys.readouterr().out)}[
        "rescored"
    ] == "pass"
    (tmp_path / "embedded").mkdir()
    for arguments in (
        ["--data", "embedded"],
        ["--data", "nowhere"],
        ["--tokenizer", "some.model"],
        ["--time-limit", "-1"],
        ["--time-limit", "nan"],
    ):
        assert cli.main(["validate", str(packed), *arguments]) == 2
        assert arguments[1] in capsys.readouterr().err


def test_exit_codes(packed, good, tmp_path, capsys):
    """0 when nothing failed of what we pack, paperwork included; 1 when a score cannot be proven; 2
    for no folder, a file, an unknown check. The text goes with the first two.
    """
    words = ["validate", str(packed), "--strict", "--json", str(tmp_path / "rows.json")]
    assert cli.main(words) == 0
    assert json.loads((tmp_path / "rows.json").read_text())[0]["verdict"] == "pass"
    shown = capsys.readouterr().out
    assert "Nothing wrong was found" in shown and "0 failed" in shown
    (good / "train_gpt.py").unlink()
    assert cli.main(["validate", str(good)]) == 1
    assert "missing: train_gpt.py" in " ".join(capsys.readouterr().out.split())
    for arguments in (
        [str(tmp_path / "nowhere")],
        [str(packed / "README.md")],
        [],
        ["--explain", "nothing"],
    ):
        assert cli.main(["validate", *arguments]) == 2
        assert capsys.readouterr().err.startswith("maskgolf: ")


def test_explain_prints_a_check_or_names_another(capsys):
    """--explain needs no folder; an unknown name is answered with the one most like it."""
    assert cli.main(["validate", "--explain", "warmdown"]) == 0
    shown = capsys.readouterr().out
    assert "What it looks at" in shown and "How to fix it" in shown
    assert cli.main(["validate", "--explain", "wormdown"]) == 2
    assert capsys.readouterr().err.endswith("; did you mean 'warmdown'?\n")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["DIR"], "a folder"),
        (["--data", "embedded"], "--data embedded"),
        (["--tokenizer", "a.model"], "--tokenizer a.model"),
        (["--run"], "--run"),
        (["--time-limit", "5"], "--time-limit 5.0"),
        (["--strict"], "--strict"),
        (["--all"], "--all"),
    ],
)
def test_explain_takes_no_submission(words, found, capsys):
    """What would not be read is refused, rather than passed over."""
    assert cli.main(["validate", "--explain", "warmdown", *words]) == 2
    assert capsys.readouterr().err == (
        f"maskgolf: --explain warmdown: expected no submission with it, found {found}; ask for one"
        " at a time\n"
    )


def test_a_check_that_raises_cannot_tell(packed):
    """The command goes on; the exception is named."""

    def broken(folder):
        raise ZeroDivisionError("planted")

    check = Check("planted", "folder", "score", broken, "", "", "")
    [row, other] = validate.validate(packed, checks=(check, validate.CHECKS[0]))
    assert row["verdict"] == "cannot tell" and "ZeroDivisionError: planted" in row["evidence"]
    assert other["verdict"] == "pass"


def test_evidence_is_one_printable_line(packed):
    """Whatever a folder holds, terminal and JSON get text: no control characters, no lone
    surrogates, no megabytes.
    """
    check = Check(
        "planted",
        "folder",
        "score",
        lambda folder: failed("a\x1b[31m\udc80\n" + "b" * 5000),
        "",
        "",
        "",
    )
    [row] = validate.validate(packed, checks=(check,))
    assert row["evidence"].isprintable() and len(row["evidence"]) <= validate.LONGEST
    json.dumps(row).encode()


PAYLOADS = {
    "base85 in lzma": (
        "import lzma as L,base64 as B\nexec(L.decompress(B.b85decode({!r})))",
        lambda data: base64.b85encode(lzma.compress(data)).decode(),
    ),
    "from imports": (
        "from zlib import decompress as d\nfrom base64 import b64decode\nexec(d(b64decode({!r})))",
        lambda data: base64.b64encode(zlib.compress(data)),
    ),
    "raw filter": (
        (
            "import lzma as L,base64 as"
            ' B\nexec(L.decompress(B.b85decode({!r}),format=L.FORMAT_RAW,filters=[{{"id":L.FILTER_LZMA2}}]))'
        ),
        lambda data: base64.b85encode(
            lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
        ).decode(),
    ),
    "raw filter with a preset": (
        (
            "import lzma as L,base64 as"
            " B\nexec(L.decompress(B.b85decode({!r}),L.FORMAT_RAW,None,[{{'id':L.FILTER_LZMA2,"
            "'preset':9|L.PRESET_EXTREME}}]))"
        ),
        lambda data: base64.b85encode(
            lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
        ).decode(),
    ),
    "deflate without a header": (
        "import zlib\nexec(zlib.decompress({!r}, -15))",
        lambda data: zlib.compress(data, wbits=-15),
    ),
    "brotli": (
        "import brotli as B,base64 as b\nexec(B.decompress(b.b85decode({!r})))",
        lambda data: base64.b85encode(brotli.compress(data)),
    ),
    "through a name": (
        "import zlib\nBLOB={!r}\nexec(compile(zlib.decompress(BLOB).decode(),'x','exec'))",
        zlib.compress,
    ),
    "in one expression": ("exec(__import__('zlib').decompress({!r}))", zlib.compress),
    "two layers": (
        "import zlib\nexec(zlib.decompress({!r}))",
        lambda data: zlib.compress(b"import zlib\nexec(zlib.decompress(%r))" % zlib.compress(data)),
    ),
}


def test_what_brotli_packed_stays_unread_without_it(monkeypatch):
    code = "import brotli\nexec(brotli.decompress({!r}))"
    for unpacked, module, reason in (
        (b"X = 1", None, "brotli.decompress: it takes brotli 1.2, which is not installed"),
        (b"X = 1", brotli, ""),
        (bytes(source.MAX_PAYLOAD + 1), brotli, "InputError"),
    ):
        monkeypatch.setitem(sys.modules, "brotli", module)
        found = source.Code(
            {"train_gpt.py": code.format(brotli.compress(unpacked, quality=0)).encode()},
            {"train_gpt.py": 10},
        )
        assert found.unread == ([f"train_gpt.py:2 {reason}"] if reason else [])
    spoilt = source.Code({"train_gpt.py": code.format(b"spoilt").encode()}, {"train_gpt.py": 10})
    assert spoilt.unread == ["train_gpt.py:2 ValueError"]


@pytest.mark.parametrize("case", PAYLOADS)
def test_packed_code_is_read_and_not_run(case, tmp_path):
    """Source in a compressed string is unpacked statically: what it imports and execs is known,
    nothing of it has run.
    """
    template, packer = PAYLOADS[case]
    mark = tmp_path / "mark"
    hidden = f"open({str(mark)!r}, 'w').close()\nimport helper\nHIDDEN = 1\n".encode()
    found = source.Code(
        {"train_gpt.py": template.format(packer(hidden)).encode(), "helper.py": b"X = 1\n"},
        {"train_gpt.py": 10, "helper.py": 6},
    )
    assert any("HIDDEN = 1" in part.text for part in found.running) and not found.unread
    assert set(found.reached) == {"train_gpt.py", "helper.py"}
    assert not mark.exists()


def test_exec_of_a_file_counts_that_file():
    """exec(open(__file__.replace(...)).read()): the other file is part of the script."""
    stub = b'exec(open(__file__.replace("train_gpt.py","train_gpt_decode.py")).read())\n'
    found = source.Code(
        {"train_gpt.py": stub, "train_gpt_decode.py": b"X = 1\n"},
        {"train_gpt.py": 74, "train_gpt_decode.py": 80_055},
    )
    assert found.reached == {"train_gpt.py": 74, "train_gpt_decode.py": 80_055} and not found.unread


def test_what_is_called_eval_and_is_none_is_no_secret():
    """A function of that name, a method, a file of the folder that is run: nothing is unread."""
    script = (
        b"import runpy\ndef eval(model):\n    model.eval()\nf = eval\nrunpy.run_path('helper.py')\n"
    )
    found = source.Code(
        {"train_gpt.py": script, "helper.py": b"X = 1\n"},
        {"train_gpt.py": len(script), "helper.py": 6},
    )
    assert not found.unread and set(found.reached) == {"train_gpt.py", "helper.py"}


def test_exec_of_what_is_not_there_cannot_be_read(good):
    """Text from the network or the environment is said to be unread; a decompression bomb too."""
    for script in (
        "import os\nexec(os.environ['X'])",
        "run = exec\nrun(input())",
        "import builtins\ngetattr(builtins, 'ex' + 'ec')(input())",
        "import runpy\nrunpy.run_path('helper.txt')",
        "exec(open('/etc/passwd').read())",
        f"import zlib\nexec(zlib.decompress({zlib.compress(bytes(1 << 25))!r}))",
    ):
        found = source.Code({"train_gpt.py": script.encode()}, {"train_gpt.py": len(script)})
        assert len(found.unread) == 1
        with pytest.raises(CannotTell):
            found.require_read()
    (good / "train_gpt.py").write_text("import os\nexec(os.environ['X'])\n")
    assert verdicts(good, checks=STATIC)["readable code"]["verdict"] == "cannot tell"


def test_unsafe_loading_is_told(good):
    """weights_only=False: nobody can say what it executes unless the pickles are here and
    harmless.
    """
    import torch

    (good / "train_gpt.py").write_text(
        "import torch\ntorch.load('final_model.pt', weights_only=False)\n"
    )
    assert verdicts(good, checks=STATIC)["loading weights"]["verdict"] == "cannot tell"
    torch.save(
        {"a": torch.ones(3), "b": [torch.zeros(2, dtype=torch.bfloat16)]}, good / "final_model.pt"
    )
    rows = verdicts(good, checks=STATIC)
    assert rows["pickles"]["verdict"] == rows["loading weights"]["verdict"] == "pass", rows[
        "pickles"
    ]


DIALECTS = {
    "step:8394/20000 train_loss:1.9 train_time:599921ms step_avg:71.47ms": (
        8394,
        20000,
        1.9,
        599_921,
    ),
    "4550/20000 train_loss: 2.8119 train_time: 9.8m tok/s: 6095957": (4550, 20000, 2.8119, 588_000),
    "step:48500/50000 loss:3.0704 t:7530338ms avg:155.3ms": (48500, 50000, 3.0704, 7_530_338),
    "step:4000/50000 [CE+SWA] train_loss:0.9321 train_time:3480865ms step_avg:870.22ms": (
        4000,
        50000,
        0.9321,
        3_480_865,
    ),
    "step:3/9 train_loss:nan train_time:5ms": (3, 9, float("nan"), 5),
}


@pytest.mark.parametrize("line", DIALECTS)
def test_log_lines_of_many_dialects(line):
    """Step, total, loss and clock are read wherever people put them."""
    [point] = training_log.parse("a.log", line).points
    step, total, loss, clock = DIALECTS[line]
    assert (point.step, point.total) == (step, total)
    assert point.train_loss == pytest.approx(
        loss, nan_ok=True
    ) and point.milliseconds == pytest.approx(clock)


def test_log_in_the_challenge_shape_is_read_whole():
    """Code that the run printed is kept apart; sizes, seed, parameters, stop and final scores are
    found.
    """
    script = "\n".join(["import os", "def f():", "    return val_bpb"] * 12)
    text = (
        f"{script}\n{'=' * 100}\nmodel_params:17059912\nseed:1337\nwarmup_step:1/20\nstep:0/20000"
        " val_loss:6.9 val_bpb:4.1 train_time:0ms\n"
    )
    text += (
        "stopping_early: wallclock_cap train_time:600038ms step:13780/20000\nSerialized model:"
        " 67224983 bytes\nCode size: 47642 bytes\n"
    )
    text += (
        "Serialized model int8+zlib: 15815847 bytes (payload:1)\nTotal submission size int8+zlib:"
        " 15863489 bytes\n"
    )
    text += "final_int8_zlib_roundtrip val_loss:2.0727 val_bpb:1.2244 eval_time:1ms\n"
    text += "final_int8_zlib_roundtrip_exact val_loss:2.07269931 val_bpb:1.22436570\n"
    log = training_log.parse("train.log", text)
    assert (
        len(log.code) == 36
        and log.seed == "1337"
        and log.parameters == 17_059_912
        and log.training_milliseconds == 600_038
    )
    assert [size for name, label, size in log.sizes if label] == [15_815_847, 15_863_489]
    assert (
        log.finals[-1].val_bpb == 1.2243657
        and log.finals[-1].digits == 8
        and [point.step for point in log.points] == [0]
    )


def test_numbers_as_people_print_them():
    """Rounded or cut, thousands separated; a different score is a different score."""
    assert numbers.numbers_in("| 42 | 6,530 | **1.1565** | 15,993,853 bytes | v2.1.3") == [
        42,
        6530,
        1.1565,
        15_993_853,
    ]
    assert (
        numbers.agree(1.2243657, 1.2244)
        and numbers.agree(1.12278022, 1.1227)
        and not numbers.agree(1.2244, 1.2246)
    )
    assert numbers.agree_mean(1.0810, [1.08079, 1.08103, 1.08118]) and not numbers.agree_mean(
        1.0808, [1.08079, 1.08103, 1.08118]
    )
    assert numbers.deviations([1.0, 3.0]) == (2**0.5, 1.0)


EVIL = {
    "GLOBAL": b"cos\nsystem\n(S'x'\ntR.",
    "STACK_GLOBAL": pickle.dumps(os.system, 4),
    "INST": b"(S'x'\nios\nsystem\n.",
    "memoized": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93.",
    "name computed": (
        b"\x80\x04\x8c\x02os\x8c\x06system\x8c\x0bcollections\x8c\x0bOrderedDict00\x93."
    ),
    "extension": b"\x80\x02\x82\x01.",
    "getattr": pickle.dumps(getattr, 4),
    "second of two": pickle.dumps(1, 2) + pickle.dumps(os.system, 2),
}


@pytest.mark.parametrize("case", EVIL)
def test_dangerous_pickles_are_named(case, tmp_path):
    """Opcode and global are named, through every opcode that can import; a name that is not
    followed is dangerous too.
    """
    (tmp_path / "state.pkl").write_bytes(EVIL[case])
    row = verdicts(tmp_path)["pickles"]
    assert row["verdict"] == "fail" and any(
        word in row["evidence"] for word in ("GLOBAL", "INST", "EXT")
    )


def test_damaged_archives_cannot_be_told(tmp_path):
    """A member whose checksum is wrong may still be read by others: it is not passed over."""
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"a": 1}, 2))
    data = bytearray((tmp_path / "model.pt").read_bytes())
    start = data.index(b"\x80\x02")
    data[start + 3] ^= 0xFF
    (tmp_path / "model.pt").write_bytes(data)
    assert verdicts(tmp_path)["pickles"]["verdict"] == "cannot tell"


def test_streams_within_streams_are_bounded():
    """Four levels are followed, a fifth is a bomb; concatenated streams are followed too."""
    data = b"x" * 100
    for _ in range(3):
        data = zlib.compress(data)
    assert [part for _, part in archives.contents("a", data, [])][-1] == b"x" * 100
    for _ in range(4):
        data = zlib.compress(data)
    with pytest.raises(archives.Bomb):
        list(archives.contents("a", data, []))
    import gzip

    assert [
        part for _, part in archives.contents("a", gzip.compress(b"a") + gzip.compress(b"b"), [])
    ][-1] == b"ab"


def test_archives_within_archives_are_bounded_together(monkeypatch):
    """Twenty members that are fine each, in twenty archives that are fine each, are too much in
    all.
    """
    monkeypatch.setattr(archives, "MAX_UNPACKED", 100_000)
    inner = bytes(1000)
    for _ in range(2):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(20):
                archive.writestr(f"{i}.zip", inner)
        inner = buffer.getvalue()
    with pytest.raises(archives.Bomb, match="everything packed"):
        list(archives.contents("a.zip", inner, []))


def test_binary_files_of_no_known_format_are_not_passed_over(good):
    """A pickle may lie in a stream that nobody here unpacks; images, tokenizers and token shards
    are no such thing.
    """
    (good / "figure.png").write_bytes(b"\x89PNG\r\n" + bytes(99))
    assert verdicts(good, checks=STATIC)["pickles"]["verdict"] == "pass"
    (good / "state.dat").write_bytes(b"\x04\x22\x4d\x18" + bytes(99))  # lz4
    assert verdicts(good, checks=STATIC)["pickles"]["verdict"] == "cannot tell"


def test_files_as_other_systems_write_them(good):
    """Logs and requirements in UTF-16, lines that end in CR LF, hashes that pip freeze writes: as
    good as ours.
    """
    for path in (*good.glob("*.log"), good / "requirements.txt"):
        path.write_bytes(path.read_text().replace("\n", "\r\n").encode("utf-16"))
    with open(good / "requirements.txt", "a", encoding="utf-16-le") as file:
        file.write("einops==0.8.0 \\\n    --hash=sha256:" + "ab" * 32 + "\n")
    assert {
        name: row["evidence"]
        for name, row in verdicts(good, checks=STATIC).items()
        if row["verdict"] != "pass"
    } == {}


@pytest.mark.parametrize("field", ["bytes_total", "bytes_model"])
def test_one_size_without_the_artifact_cannot_be_told(good, field):
    """A JSON that states nothing but one size, and no file to compare it with."""
    (good / "final_model.mgolf").unlink()
    (good / "submission.json").write_text(json.dumps({"val_bpb": 1.5, field: 6012}))
    row = verdicts(good, checks=STATIC)["JSON bytes"]
    assert row["verdict"] == "cannot tell" and f"{field} 6,012" in row["evidence"]


def test_a_digit_that_is_no_number_is_no_step(good):
    """str.isdigit says yes to a superscript, int says no."""
    for path in good.glob("*.log"):
        path.write_text(path.read_text().replace("started_step:", "started_step:\u00b2"))
    row = verdicts(good, checks=STATIC)["weight average"]
    assert row["verdict"] == "fail" and "itself" not in row["evidence"]


def test_folder_is_read_within_limits(tmp_path, monkeypatch):
    """Links are not followed, depth, files and bytes are capped, and each is said."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "loop").symlink_to(tmp_path)
    deep = tmp_path
    for _ in range(submission.MAX_DEPTH + 2):
        deep = deep / "d"
        deep.mkdir()
    (deep / "x.txt").write_text("x")
    with open(tmp_path / "model.bin", "wb") as file:
        file.truncate(submission.MAX_READ + 1)
    found = Submission(tmp_path)
    assert any("a link to" in text for text in found.strange) and any(
        "folders deep" in text for text in found.strange
    )
    assert not any(name.endswith("x.txt") for name in found.files)
    with pytest.raises(CannotTell, match="more than"):
        found.read("model.bin")
    monkeypatch.setattr(submission, "MAX_FILES", 0)
    assert Submission(tmp_path).files == {}


def test_a_file_swapped_for_a_link_is_not_followed(tmp_path):
    """Between listing and reading a file may change; what is then there is not followed."""
    (tmp_path / "submission.json").write_text("{}")
    found = Submission(tmp_path)
    (tmp_path / "submission.json").unlink()
    (tmp_path / "submission.json").symlink_to("/etc/hostname")
    with pytest.raises(CannotTell, match="cannot be read"):
        found.read("submission.json")


CRAFTED = {
    "digits": "9" * 4000,
    "clock": "t:" + "9" * 4000,
    "word": "a" * 4000,
    "losses": "val_loss:1" * 400,
    "spaces": "x" + " " * 4000,
    "rule": "=" * 4000,
    "thousands": "1,111" * 800,
    "keys": "sk-" * 1400,
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_lines_take_no_quadratic_time(case, tmp_path):
    """Patterns are linear in what a folder holds: 200 lines of each kind in all places that are
    searched.
    """
    line = CRAFTED[case]
    text = f"{line}\n" * 200
    for name in ("train.log", "README.md", "train_gpt.py", "requirements.txt"):
        (tmp_path / name).write_text(text)
    (tmp_path / "submission.json").write_text(
        json.dumps({"val_bpb": 1.5, "author": line, "name": line})
    )
    assert len(verdicts(tmp_path, checks=STATIC)) == len(STATIC)


HARD_JSON = [
    "[" * 100_000,
    '{"a":' * 2000,
    '{"val_bpb": 1e999}',
    '{"val_bpb": ' + "9" * 5000 + "}",
    '{"seed_results": {"1": null}}',
    '{"seeds": {"1": [1]}}',
    "\ufeff{}",
]


@pytest.mark.parametrize("text", HARD_JSON, ids=range(len(HARD_JSON)))
def test_hard_json_is_an_answer_not_a_crash(text, good):
    """Deep nesting, numbers that overflow, members of other types."""
    (good / "submission.json").write_text(text)
    assert not [
        row["evidence"]
        for row in verdicts(good, checks=STATIC).values()
        if row["evidence"].startswith("the check itself failed")
    ]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
fields = st.dictionaries(
    st.sampled_from(
        "val_bpb val_loss val_bpb_std seeds seed_results date track name author bytes_total"
        " bytes_code train_steps parameters".split()
    ),
    values,
    max_size=8,
)
SCRAPS = (
    "step:",
    "1/2",
    " val_bpb:",
    "val_loss:",
    "nan",
    "1e400",
    "train_time:",
    "9" * 40,
    "ms",
    "\n",
    "seed:",
    "Code size: ",
    "ema started_step:",
    "|",
    "=" * 60,
    "=",
)
log_text = st.lists(st.sampled_from(SCRAPS) | st.text(max_size=6), max_size=40).map("".join)
names = st.sampled_from(
    [
        "submission.json",
        "train_gpt.py",
        "train_seed1.log",
        "README.md",
        "model.pt",
        "model.ptz",
        "final_model.mgolf",
        "a/b.npz",
        "requirements.txt",
        "x",
    ]
)
bodies = (
    st.binary(max_size=200)
    | log_text.map(lambda text: text.encode("utf-8", "replace"))
    | fields.map(lambda value: json.dumps(value).encode())
)
prefixes = st.sampled_from(
    [
        b"",
        b"\x80\x04",
        b"PK\x03\x04",
        b"\x78\x9c",
        b"\x1f\x8b\x08",
        b"MASKGOLF",
        b"\x93NUMPY\x01\x00",
        b"\xfd7zXZ\x00",
    ]
)


@hypothesis.settings(max_examples=40)
@hypothesis.given(files=st.dictionaries(names, st.tuples(prefixes, bodies), max_size=7))
def test_no_bytes_make_it_fall_or_run(files, tmp_path_factory):
    """Random files under telling names: every check answers, none of them by its own failure, and a
    planted pickle is not executed.
    """
    folder = tmp_path_factory.mktemp("fuzz")
    mark = folder.parent / f"{folder.name}.executed"

    class Plant:
        def __reduce__(self):
            return Path.touch, (mark,)

    for name, (prefix, body) in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(prefix + body)
    (folder / "planted.pkl").write_bytes(pickle.dumps(Plant()))
    (folder / "planted.pt").write_bytes(zlib.compress(pickle.dumps(Plant())))
    rows = validate.validate(folder)
    assert [row["check"] for row in rows] == [check.name for check in validate.CHECKS]
    assert [row for row in rows if row["evidence"].startswith("the check itself failed")] == []
    assert {row["check"]: row["verdict"] for row in rows}["pickles"] == "fail"
    assert not mark.exists()


@hypothesis.settings(max_examples=40)
@hypothesis.given(claimed=fields, log=log_text)
def test_no_json_or_log_makes_it_fall(claimed, log, tmp_path_factory):
    """Random members of the right names and scraps of log lines."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "submission.json").write_text(json.dumps(claimed))
    (folder / "train_seed1.log").write_text(log, errors="replace")
    (folder / "train_gpt.py").write_text("import zlib\n")
    rows = validate.validate(folder)
    assert [row for row in rows if row["evidence"].startswith("the check itself failed")] == []


def test_passed_is_a_pass():
    """The three verdicts are spelled as SPEC section 13 spells them."""
    assert (passed("").verdict, failed("").verdict, VERDICTS) == (
        "pass",
        "fail",
        ("pass", "fail", "cannot tell"),
    )
