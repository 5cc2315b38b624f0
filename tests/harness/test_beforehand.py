"""What can be known at once is said at once: exit 2 with one message before torch is loaded."""

import json
import os
import subprocess
import sys

import pytest

from harness import commands, parity, paths, pieces
from tests.support.scratch import ROOT

RUN = "nope: expected a run directory or an artifact file, found nothing"
FILE = "nope: expected a readable file, found none"
DATA = "data nope: expected a directory of shards, found nothing"
TOKENIZER = "tokenizer nope: expected a readable SentencePiece model, found none"
TEXT = "nope: expected a readable file, found none"
DEVICE = "--device foo: expected cpu or cuda, found foo; choose one of these"
PACK = "--name Mine --author Me --github-id me --out out"
SOURCES = {"--data nope": DATA, "--tokenizer nope": TOKENIZER, "--text nope": TEXT}
WRONG = {  # arguments: what the message says; `here` is a folder, `file` a file
    "eval nope": RUN,
    "eval file --against nope": RUN,
    "eval file nope --compare": RUN,
    "eval --merge nope": "nope: expected a partial evaluation, found none",
    **{f"eval file {flag}": said for flag, said in SOURCES.items()},
    **{f"train {flag}": said for flag, said in SOURCES.items()},
    **{f"demo {flag}": said for flag, said in SOURCES.items()},
    **{f"pack file {PACK} {flag}": said for flag, said in SOURCES.items()},
    "report nope": "nope: expected a finished run, found no summary.json",
    "sample nope": RUN,
    "sample here": "here: expected a finished run, found no recipe.json",
    "sample file --tokenizer nope": TOKENIZER,
    "sample file --infill here": "--infill: expected a gap, three underscores or more, found none",
    "sample file --infill ___ --prompt here": "--prompt: expected no --infill",
    "sample file --gap 3": "--gap 3: expected --infill",
    f"pack nope {PACK}": "nope: expected a run directory, found nothing",
    f"pack file {PACK}": "file: expected a run directory, found a file",
    "compress nope --run file": FILE,
    "compress file --out x --run nope": RUN,
    "compress file --run file --tokenizer nope": TOKENIZER,
    "compress file --run file --out here": "here: expected a file to write, found a folder",
    "compress file --run file --out file": "file: expected a file to write, found the input itself",
    "decompress nope --run file": "nope: expected a name that ends in .mgz, found 'nope'",
    "decompress nope.mgz --run file": "nope.mgz: expected a readable file, found none",
    "decompress file.mgz --out x --run nope": RUN,
    "decompress file.mgz --run file --out x --tokenizer nope": TOKENIZER,
    "import nope -o x": FILE,
    "export nope --out x": RUN,
    "export file --out here": "--out here: expected a file to write, found a folder",
    "data list nope": "shard nope: expected a readable shard, found none",
    "data list here --tokenizer nope": TOKENIZER,
    "data list here": "data here: expected one directory of *.bin shards",
    "data build nope --out x": TEXT,
    "data build file --out x --tokenizer nope": TOKENIZER,
    "validate nope": "nope: expected a submission folder, found nothing",
    "validate file": "file: expected a submission folder, found a file",
    "validate": "validate: expected a submission folder, found none",
    "validate here --data nope": DATA,
    "validate here --data embedded --tokenizer nope": TOKENIZER,
    "validate here --time-limit 0": "--time-limit 0: expected seconds above 0",
    "bench compare nope nope": "nope: cannot be read",
    "bench likelihood nope": RUN,
    "bench likelihood file file": "expected a trained run to measure on, found 2",
    "bench formats nope": RUN,
    "bench muon --pairs 0": "--pairs: expected at least 1, found 0",
    "parity masks nope": "found 'nope'",
    **{
        f"{command} --device foo": DEVICE
        for command in (
            "train",
            "demo",
            "eval file",
            "parity",
            "bench muon",
            "sample file",
            f"pack here {PACK}",
            "compress file --run file",
            "decompress file.mgz --run file",
        )
    },
    "eval file --partial nope/p": "--partial nope/p: expected a file to write, found no folder",
    "report here -o nope/p.html": "-o nope/p.html: expected a file to write, found no folder nope",
    "report here -o here": "-o here: expected a file to write, found a folder",
    "report nope -o p.html": "nope: expected a finished run, found no summary.json",
    "report here --device cpu": "--device cpu: expected -o as well, whose figures it computes",
    "report here -o p.html --device foo": DEVICE,
    "watch nope": "nope: expected a run directory, found nothing; name one, such as runs/demo",
    "watch file --once": "file: expected a run directory, found a file",
    "watch here": "here: expected a run that has begun, found no recipe.json; start one with",
    "report here --plot nope/p.png": "--plot nope/p.png: expected an image",
    "report here --plot p.nonsense": "found '.nonsense'",
    "report here --plot here": "--plot here: expected an image such as curves.png to write",
}
COMMANDS = {  # each with what it needs to be parsed
    "demo": "demo",
    "train": "train",
    "eval": "eval file",
    "parity": "parity",
    "bench": "bench muon",
    "sample": "sample file",
    "report": "report here",
    "watch": "watch begun",
    "compress": "compress file --run file",
    "decompress": "decompress file.mgz --run file",
    "pack": f"pack here {PACK}",
    "validate": "validate here",
    "import": "import file -o x",
    "export": "export file --out x",
    "data": "data list file",
}


UNWRITABLE = {
    "nope/out.json": "no folder nope",
    "here": "a folder",
    "file/out.json": "no folder file",
    "a" * 300: "none that is possible (File name too long)",
}
CHILD = """
import contextlib, io, json, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch was to be loaded")

sys.meta_path.insert(0, NoTorch())
from harness import cli

answers = {}
for arguments in json.load(sys.stdin):
    if "no matplotlib" in arguments:
        sys.modules["matplotlib.backend_bases"] = None
        arguments = arguments.removesuffix(" no matplotlib")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(arguments.split())
        except BaseException as error:
            code = repr(error)
    answers[arguments] = code, out.getvalue(), err.getvalue()
json.dump(answers, sys.stdout)
"""
JSON = {
    f"{words} --json {path}": f"--json {path}: expected a file to write, found {found}; choose"
    for words in COMMANDS.values()
    for path, found in UNWRITABLE.items()
}
NO_PLOT = "report here --plot q.png"
NO_PAGE = "report here -o q.html"
CASES = (
    WRONG
    | JSON
    | {NO_PLOT: "--plot: expected matplotlib, found none; install maskgolf[plot]"}
    | {NO_PAGE: "-o: expected matplotlib, found none; install maskgolf[plot]"}
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, list]:
    """Return {arguments: (exit code, stdout, stderr)} of a process that cannot import torch, run in
    a folder that holds a folder and files; and the names that it left there.
    """
    place = tmp_path_factory.mktemp("place")
    (place / "here").mkdir()
    for name in ("file", "file.mgz"):
        (place / name).write_text("text")
    (place / "begun").mkdir()
    (place / "begun" / "recipe.json").write_text('{"recipe": {"model": {}}}')
    without = [f"{words} no matplotlib" for words in (NO_PLOT, NO_PAGE)]
    asked = json.dumps([*WRONG, *JSON, "--version", *without])
    ran = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=asked,
        capture_output=True,
        text=True,
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout) | {"left": sorted(os.listdir(place))}


@pytest.mark.parametrize("arguments", CASES)
def test_what_is_wrong_is_one_message_before_torch_is_loaded(arguments, answers):
    code, out, err = answers[arguments]
    assert (code, out) == (2, ""), err
    assert err.startswith("maskgolf: ") and err.count("\n") == 1
    assert CASES[arguments] in err


def test_nothing_is_made_for_what_is_refused(answers):
    """No folder for --json, --partial or --plot, nor one for --out."""
    assert answers["left"] == ["begun", "file", "file.mgz", "here"]


def test_every_command_is_tried():
    assert sorted(COMMANDS) == sorted(commands.NAMES)


def test_no_right_to_write_is_said(tmp_path, monkeypatch):
    """To a folder, or to a pipe; root may write everywhere, so the system's answer is given."""
    os.mkfifo(tmp_path / "pipe")
    assert paths.output_problem(tmp_path / "new") is None
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert paths.output_problem(tmp_path / "new") == f"no right to write to {tmp_path}"
    assert paths.output_problem(tmp_path / "pipe") == f"no right to write to {tmp_path / 'pipe'}"


def test_a_pipe_is_not_opened_to_see_whether_it_can_be_read(tmp_path):
    """Opening it would wait for whoever writes."""
    os.mkfifo(tmp_path / "pipe")
    paths.check_readable(tmp_path / "pipe")


def test_the_names_of_the_pieces_are_those_of_parity():
    """In their order."""
    assert list(parity.PIECES) == list(pieces.NAMES)


def test_version_is_printed_without_torch(answers):
    from importlib.metadata import version

    python = ".".join(map(str, sys.version_info[:3]))
    said = f"maskgolf {version('maskgolf')}\nPython {python}, torch {version('torch')}\n"
    assert answers["--version"] == [0, said, ""]
