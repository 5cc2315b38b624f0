"""Defects that the static checks must catch, each by the check named and by no unrelated one."""

import io
import json
import os
import pickle
import re
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from tests.validate.submissions.edits import (
    Defect,
    append_code,
    claims,
    in_logs,
    logs,
    replace,
    resize,
    state,
    state_seed,
)

MEBIBYTES = """

def _fits(size):
    size_limit = 16 * 1024 * 1024
    return size <= size_limit
"""
BROTLI = """

def _unpack(data):
    import brotli
    return brotli.decompress(data)
"""
HALF_AVERAGE = """

def _start(model):
    ema_state = {name: value.detach().bfloat16() for name, value in model.items()}
    return ema_state
"""


class Shell:
    """Pickled, it asks whoever loads it to run a command."""

    def __reduce__(self):
        return os.system, ("true",)


def _renamed(name: str):
    return lambda folder: folder.rename(folder.with_name(name))


def _moved(parent: str):
    def plant(folder: Path) -> Path:
        (folder.parent / parent).mkdir()
        return folder.rename(folder.parent / parent / folder.name)

    return plant


def _fields(**fields):
    return lambda folder: state(folder, **fields)


def _written(name: str, data: bytes | str):
    return lambda folder: (
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data) and None
    )


def _removed(*patterns: str):
    return lambda folder: (
        [path.unlink() for pattern in patterns for path in folder.glob(pattern)] and None
    )


def _code(text: str):
    return lambda folder: append_code(folder, text)


def _logged(pattern: str, new: str):
    return lambda folder: in_logs(folder, pattern, new)


def _one_log(pattern: str, new: str, which: int = 1):
    return lambda folder: replace(logs(folder)[which], pattern, new)


def _more(name: str, more: int):
    return lambda folder: state(folder, **{name: claims(folder)[name] + more})


def nested(folder: Path) -> None:
    """An older submission copied along."""
    older = folder / "2026-01-02_Older"
    older.mkdir()
    (older / "submission.json").write_text(json.dumps({"name": "older"}))
    (older / "README.md").write_text("# older\n")


def cut_json(folder: Path) -> None:
    """A comma after the last field."""
    path = folder / "submission.json"
    path.write_text(path.read_text().rstrip().removesuffix("}").rstrip() + ",\n}\n")


def twice(folder: Path) -> None:
    """A field that is there twice."""
    path = folder / "submission.json"
    path.write_text(
        path.read_text().rstrip().removesuffix("}").rstrip() + ',\n  "blurb": "another"\n}\n'
    )


def not_a_number(folder: Path) -> None:
    """NaN, as Python's json writes it."""
    path = folder / "submission.json"
    path.write_text(
        path.read_text().rstrip().removesuffix("}").rstrip() + ',\n  "pre_quant_val_loss": NaN\n}\n'
    )


def other_readme(folder: Path) -> None:
    """The README of an earlier run: every score in it is 0.1 higher."""
    scores = {
        claims(folder)["val_bpb"],
        *(one["val_bpb"] for one in claims(folder)["seed_results"].values()),
    }
    for score in scores:
        replace(folder / "README.md", f"{score:.4f}", f"{score + 0.1:.4f}")


def other_row(folder: Path) -> None:
    """The README's row of one seed has another score."""
    score = claims(folder)["seed_results"]["2"]["val_bpb"]
    replace(folder / "README.md", rf"^\| 2 \| {score:.4f}", f"| 2 | {score + 0.01:.4f}")


def helper(folder: Path) -> None:
    """A module that train_gpt.py imports and nobody counted."""
    append_code(folder, "\n\ndef _extra():\n    import helper\n    return helper\n")
    (folder / "helper.py").write_text("VALUE = 1\n")


def overweight(folder: Path) -> None:
    """Sixteen megabytes of helper, stated everywhere."""
    text = "# " + "x" * 16_000_000 + "\n"
    (folder / "helper.py").write_text(text)
    resize(folder, len(text))


def fallback(folder: Path) -> None:
    """zstd where there is zstandard, zlib elsewhere."""
    (folder / "requirements.txt").write_text(
        (folder / "requirements.txt").read_text() + "zstandard==0.23.0\n"
    )
    append_code(
        folder,
        "\ntry:\n    import zstandard\nexcept ImportError:\n    zstandard = None\n\n\ndef"
        " _pack(data):\n    return zstandard.compress(data) if zstandard else"
        " zlib.compress(data)\n",
    )


def best_seed(folder: Path) -> None:
    """The better seed's score where the mean belongs."""
    best = min(claims(folder)["seed_results"].values(), key=lambda one: one["val_bpb"])
    state(folder, val_bpb=best["val_bpb"], val_loss=best["val_loss"])


def exchanged(folder: Path) -> None:
    """Two seeds' results exchanged."""
    results = claims(folder)["seed_results"]
    one, other = sorted(results)
    scores = {
        name: {seed: results[seed][name] for seed in results} for name in ("val_bpb", "val_loss")
    }
    for name, values in scores.items():
        results[one][name], results[other][name] = values[other], values[one]
    state(folder, seed_results=results)


def never_logged(folder: Path) -> None:
    """A score that neither log nor seeds know, though the README does."""
    claim = claims(folder)["val_bpb"]
    replace(folder / "README.md", f"{claim:.4f}", f"{claim - 0.3:.4f}")
    state(
        folder,
        val_bpb=claim - 0.3,
        val_loss=claims(folder)["val_loss"] * (claim - 0.3) / claim,
        seed_results=...,
        seeds=...,
        val_bpb_std=...,
    )


def live_score(folder: Path) -> None:
    """The score of the weights before they were quantised."""
    state(
        folder,
        val_bpb=1.2345,
        val_loss=1.2345 / claims(folder)["val_bpb"] * claims(folder)["val_loss"],
        seed_results=...,
        seeds=...,
        val_bpb_std=...,
    )
    in_logs(folder, r"(val_bpb:)\d\.\d{4}( train_time)", r"\g<1>1.2345\2")
    (folder / "README.md").write_text("# val_bpb 1.2345\n")


def ten_minutes(folder: Path) -> None:
    """A run of 700 s in the record track."""
    state(folder, track="10min_16mb", wallclock_seconds=700.0)
    in_logs(folder, r"(step:12/12 .*train_time:)\d+ms", r"\g<1>700000ms")


def slow_evaluation(folder: Path) -> None:
    """Scoring that takes longer than the record track allows."""
    state(folder, track="10min_16mb")
    in_logs(folder, r"eval_time:\d+ms", "eval_time:700000ms")


def unfinished(folder: Path) -> None:
    """A schedule for 20,000 steps, a run of 12, and no word about the last learning rate."""
    in_logs(folder, r"^final_lr_multiplier.*\n", "")
    in_logs(folder, r"^(step:\d+)/12", r"\1/20000")
    in_logs(folder, r"iterations:12", "iterations:20000")


def torch_pickle(folder: Path) -> None:
    """torch.save's zip around a pickle that runs a command."""
    with zipfile.ZipFile(folder / "optimizer.pt", "w") as archive:
        archive.writestr("optimizer/data.pkl", pickle.dumps(Shell(), 2))
        archive.writestr("optimizer/version", "3\n")


def link(folder: Path) -> None:
    """A link to the author's disk."""
    (folder / "notes.md").symlink_to("/etc/hostname")


def old_zip(folder: Path) -> None:
    """A megabyte-sized archive of 256 MB."""
    with zipfile.ZipFile(folder / "notes.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 26))


def escaping_zip(folder: Path) -> None:
    """A member that would land in the home of whoever unpacks it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../.profile", "echo\n")
    (folder / "notes.zip").write_bytes(buffer.getvalue())


def tar(member: str, data: bytes) -> bytes:
    """Return a tar archive of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(member)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def required(line: str):
    """Plant a line in requirements.txt."""
    return lambda folder: (
        (folder / "requirements.txt").write_text(
            (folder / "requirements.txt").read_text() + line + "\n"
        )
        and None
    )


def other_encoding(folder: Path) -> None:
    """JSON as PowerShell writes it: UTF-16."""
    path = folder / "submission.json"
    path.write_bytes(path.read_text().encode("utf-16"))


def marked(folder: Path) -> None:
    """JSON as Notepad writes it: UTF-8 with a byte order mark."""
    path = folder / "submission.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")


def flipped(folder: Path) -> None:
    """One bit of the weights."""
    data = bytearray((folder / "final_model.mgolf").read_bytes())
    data[-100] ^= 1
    (folder / "final_model.mgolf").write_bytes(data)


def longer(folder: Path) -> None:
    """Bytes behind the artifact, stated everywhere."""
    path = folder / "final_model.mgolf"
    path.write_bytes(path.read_bytes() + bytes(100))
    content = claims(folder)
    sizes = {name: content[name] + 100 for name in ("bytes_model", "bytes_total")}
    state(folder, **sizes)
    state_seed(folder, "1", **sizes)
    replace(logs(folder)[0], r"^(Serialized model \S+: )\d+", rf"\g<1>{sizes['bytes_model']}")
    replace(logs(folder)[0], r"^(Total submission size \S+: )\d+", rf"\g<1>{sizes['bytes_total']}")


def second_artifact(folder: Path) -> None:
    """The other half of the weights, in a file that nobody counted."""
    append_code(folder, '\n\ndef _rest():\n    return json.loads(open("rest.json").read())\n')
    (folder / "rest.json").write_text("[" + "1234567," * 2_000_000 + "1]")


def code_in_text(folder: Path) -> None:
    """Code that is executed and not called .py."""
    append_code(folder, '\n\nexec(open("helper.txt").read())\n')
    (folder / "helper.txt").write_text("# " + "x" * 16_000_000 + "\n")


def left_out(folder: Path) -> None:
    """The mean of one seed alone, everywhere; the other one's log is still there."""
    results = claims(folder)["seed_results"]
    best = str(claims(folder)["artifact_seed"])
    only = {best: results[best]}
    replace(
        folder / "README.md",
        r"Mean val_bpb \*\*\S+\*\*",
        f"Mean val_bpb **{only[best]['val_bpb']:.4f}**",
    )
    state(
        folder,
        seed_results=only,
        seeds=[int(best)],
        val_bpb=only[best]["val_bpb"],
        val_loss=only[best]["val_loss"],
        val_bpb_std=None,
    )


def copied_log(folder: Path) -> None:
    """The second seed's log is the first one's, with the other seed and score."""
    one, other = (path.read_text() for path in logs(folder))
    scores = iter(re.findall(r"^final_e4m3.*", other, re.MULTILINE))
    one = re.sub(
        r"^final_e4m3.*",
        lambda _: next(scores),
        one.replace("seed:1\n", "seed:2\n"),
        flags=re.MULTILINE,
    )
    logs(folder)[1].write_text(one)


def shorter(folder: Path) -> None:
    """JSON and logs of ten steps, an artifact of twelve."""
    in_logs(folder, r"^step:1[12]/12 train_loss.*\n", "")
    for pattern, new in (
        ("step:12/12", "step:10/10"),
        ("/12 ", "/10 "),
        ("iterations:12", "iterations:10"),
        ("^steps:12", "steps:10"),
    ):
        in_logs(folder, pattern, new)
    for seed in claims(folder)["seed_results"]:
        state_seed(folder, seed, train_steps=10)
    state(folder, train_steps=10)


def array_of_objects(folder: Path) -> None:
    """A .npy whose header spells the dtype as no library writes it, and as every library
    reads it.
    """
    header = b"{'descr': 'O', 'fortran_order': False, 'shape': (1,)}\n"
    (folder / "cache.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + pickle.dumps(Shell(), 4)
    )


UNREAD = ("required files",)  # fails too where the JSON cannot be read
DEFECTS = (
    Defect("no README", "README scores", _removed("README.md")),
    Defect("empty README", "README scores", _written("README.md", "\n")),
    Defect(
        "empty script", "required files", _written("train_gpt.py", ""), ("JSON bytes", "log bytes")
    ),
    Defect("no log", "required files", _removed("*.log")),
    Defect("no JSON", "required files", _removed("submission.json")),
    Defect("link", "plain files", link),
    Defect("pipe", "plain files", lambda folder: os.mkfifo(folder / "pipe")),
    Defect(
        "name with spaces", "folder name and date", _renamed("2026-11-23_Tiny masked diffusion")
    ),
    Defect("no such day", "folder name and date", _renamed("2026-02-30_Tiny")),
    Defect("last year's date", "folder name and date", _fields(date="2025-11-23")),
    Defect("date in words", "folder name and date", _fields(date="last Monday")),
    Defect("record in the record", "one record", nested),
    Defect(
        "two JSONs",
        "one record",
        lambda folder: (
            shutil.copy(folder / "submission.json", folder / "submission_old.json") and None
        ),
    ),
    Defect("comma after the last field", "JSON well formed", cut_json, UNREAD),
    Defect("field twice", "JSON well formed", twice),
    Defect("NaN", "JSON well formed", not_a_number),
    Defect("JSON in UTF-16", "JSON well formed", other_encoding, UNREAD),
    Defect("JSON with a byte order mark", "JSON well formed", marked),
    Defect("JSON list", "JSON well formed", _written("submission.json", "[]"), UNREAD),
    Defect("placeholder author", "JSON fields", _fields(author="Your Name")),
    Defect("empty name", "JSON fields", _fields(name="")),
    Defect("null loss", "JSON fields", _fields(val_loss=None)),
    Defect("score as text", "JSON fields", _fields(val_bpb="1.2345")),
    Defect("seeds as one word", "JSON fields", _fields(seeds="1, 2")),
    Defect("no github_id", "JSON fields", _fields(github_id=...)),
    Defect("fraction of a byte", "JSON fields", _fields(bytes_model=6012.5)),
    Defect("misspelled track", "track", _fields(track="nonrecord16mb")),
    Defect("another track's folder", "track", _moved("track_10min_16mb")),
    Defect("README of another run", "README scores", other_readme),
    Defect("README row of another run", "README scores", other_row),
    Defect("16 MB helper", "size limit", overweight),
    Defect("second file of weights", "size limit", second_artifact, ("JSON bytes",)),
    Defect("16 MB of code in a .txt", "size limit", code_in_text, ("JSON bytes",)),
    Defect("artifact with one byte changed", "artifact opens", flipped),
    Defect("artifact with bytes at its end", "artifact opens", longer),
    Defect(
        "package imported by its name in a string",
        "imports",
        _code('\n\ndef _extra():\n    return __import__("einops")\n'),
    ),
    Defect("limit in MiB", "decimal megabytes", _code(MEBIBYTES)),
    Defect("helper not counted", "JSON bytes", helper),
    Defect("stale bytes_code", "JSON bytes", _more("bytes_code", -100)),
    Defect("artifact of another seed", "JSON bytes", _more("bytes_model", 7)),
    Defect("bytes do not add up", "JSON bytes", _more("bytes_total", 1000), ("log bytes",)),
    Defect("log of another script", "log bytes", _logged(r"^Code size: \d+", "Code size: 12345")),
    Defect("silent zlib", "compressor", fallback),
    Defect("unlisted brotli", "compressor", _code(BROTLI), ("imports",)),
    Defect(
        "any torch",
        "requirements pinned",
        lambda folder: replace(folder / "requirements.txt", "^torch==.*", "torch"),
    ),
    Defect(
        "at least numpy",
        "requirements pinned",
        lambda folder: replace(folder / "requirements.txt", "^numpy==", "numpy>="),
    ),
    Defect(
        "wheel of the author's disk",
        "requirements pinned",
        required("mylib @ file:///home/me/mylib-1.0-py3-none-any.whl"),
    ),
    Defect("path of the author's disk", "requirements pinned", required("../mylib")),
    Defect("editable package", "requirements pinned", required("-e ../mylib")),
    Defect("list that is not there", "requirements pinned", required("-r more.txt")),
    Defect(
        "latest torch",
        "requirements pinned",
        lambda folder: replace(folder / "requirements.txt", "^torch==.*", "torch==latest"),
    ),
    Defect("best seed as mean", "mean over seeds", best_seed),
    Defect("deviation of another table", "mean over seeds", _fields(val_bpb_std=0.5)),
    Defect("seed without a run", "mean over seeds", _fields(seeds=[1, 3])),
    Defect("seed left out", "mean over seeds", left_out),
    Defect("one run's log twice", "seeds in logs", copied_log, ("log bytes",)),
    Defect(
        "scored until it was good",
        "seeds in logs",
        _one_log(r"^(final_\S+_exact) .*\n", r"\1 val_loss:9.0 val_bpb:8.9\n\g<0>"),
    ),
    Defect(
        "loss of another seed",
        "seeds in logs",
        lambda folder: state_seed(folder, "2", val_loss=5.0),
    ),
    Defect(
        "seconds of another seed",
        "JSON counts",
        lambda folder: state_seed(folder, "2", wallclock_seconds=99.0),
    ),
    Defect(
        "bytes of another seed",
        "log bytes",
        lambda folder: state_seed(folder, "2", bytes_total=123_456),
    ),
    Defect("seeds exchanged", "seeds in logs", exchanged, ("README scores",)),
    Defect(
        "other warmdown",
        "one configuration",
        _one_log(r"warmdown:\d+", "warmdown:99"),
        ("parameters and steps",),
    ),
    Defect(
        "other batch",
        "one configuration",
        _one_log(r"tokens_per_step:\d+", "tokens_per_step:64"),
        ("parameters and steps",),
    ),
    Defect(
        "logs of another batch",
        "parameters and steps",
        _logged(r"tokens_per_step:\d+", "tokens_per_step:64"),
    ),
    Defect("logs of a shorter run", "parameters and steps", shorter),
    Defect(
        "traceback",
        "no traceback",
        _one_log(r"\Z", "Traceback (most recent call last):\n  File x\nRuntimeError\n"),
    ),
    Defect("killed", "no traceback", _one_log(r"\Z", "Killed\n")),
    Defect(
        "worker killed",
        "no traceback",
        _one_log(r"\Z", "traceback : Signal 9 (SIGKILL) received by PID 3301\n"),
    ),
    Defect("NaN loss", "finite losses", _one_log(r"^(step:9/12 train_loss:)\S+", r"\1nan")),
    Defect(
        "no score of the file",
        "roundtrip score",
        _one_log(r"^final_\w+ .*\n", ""),
        ("score in log",),
    ),
    Defect(
        "only a score before quantisation",
        "roundtrip score",
        _one_log(r"^final_", "pre_quant_"),
        ("score in log", "seeds in logs"),
    ),
    Defect("700 s in the record track", "training time", ten_minutes, ("JSON counts",)),
    Defect("evaluation of 700 s", "training time", slow_evaluation),
    Defect("seconds of another run", "JSON counts", _fields(wallclock_seconds=4000.0)),
    Defect("parameters of another model", "JSON counts", _fields(parameters=4185)),
    Defect(
        "log of another model",
        "parameters and steps",
        _logged(r"model_params:\d+", "model_params:17059912"),
        ("JSON counts",),
    ),
    Defect(
        "steps of another seed",
        "JSON counts",
        lambda folder: state_seed(folder, "2", train_steps=11),
    ),
    Defect(
        "rate never came down",
        "warmdown",
        _one_log(r"^(final_lr_multiplier:).*", r"\g<1>0.85000000"),
    ),
    Defect("stopped before the warmdown", "warmdown", unfinished, ("parameters and steps",)),
    Defect("average in bfloat16", "weight average", _logged("dtype:float32", "dtype:bfloat16")),
    Defect(
        "average never started",
        "weight average",
        _one_log(r"started_step:\d+", "started_step:never"),
    ),
    Defect(
        "average at the last step",
        "weight average",
        _one_log(r"started_step:\d+", "started_step:12"),
    ),
    Defect(
        "average did not move", "weight average", _one_log(r"from_start:\S+", "from_start:0.000000")
    ),
    Defect("average in 16 bits in code", "weight average", _code(HALF_AVERAGE)),
    Defect("score that no log has", "score in log", never_logged),
    Defect("live weights' score", "score in log", live_score),
    Defect(
        "loss of another run",
        "bits and nats",
        lambda folder: state(folder, val_loss=claims(folder)["val_loss"] * 1.05),
    ),
    Defect("pickle that runs a command", "pickles", torch_pickle),
    Defect(
        "old pickle that runs a command", "pickles", _written("state.pkl", pickle.dumps(Shell(), 0))
    ),
    Defect(
        "packed pickle that runs a command",
        "pickles",
        _written("state.ptz", zlib.compress(pickle.dumps(Shell(), 4))),
    ),
    Defect("pickle without a telling name", "pickles", _written("state", pickle.dumps(Shell(), 0))),
    Defect(
        "pickle in a tar archive",
        "pickles",
        _written("final.pt", tar("pickle", pickle.dumps(Shell(), 2))),
    ),
    Defect("array of objects", "pickles", array_of_objects),
    Defect(
        "tar archive that writes outside",
        "archives",
        _written("notes.tgz", zlib.compress(tar("../../.profile", b"echo"), wbits=31)),
    ),
    Defect("zip bomb", "archives", old_zip),
    Defect(
        "zlib bomb",
        "archives",
        _written("state.ptz", zlib.compress(zlib.compress(bytes(1 << 26)), 9)),
    ),
    Defect("archive that writes outside", "archives", escaping_zip),
    Defect("shared library", "compiled code", _written("kernel.so", b"\x7fELF" + bytes(60))),
    Defect(
        "library under another name",
        "compiled code",
        _written("kernel.dat", b"\x7fELF" + bytes(60)),
    ),
    Defect("token in the log", "secrets", _one_log(r"\Z", "HF_TOKEN=" + "hf_" + "aB" * 17 + "\n")),
    Defect(
        "private key",
        "secrets",
        _written("id.txt", "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nAAAA\n"),
    ),
)
