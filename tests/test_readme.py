"""Every command and every example in README.md runs as it stands there, on tiny models in place of
the large ones; every link leads somewhere.
"""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import cli
from harness.packaging import size
from tests.support.commands import TINY_MODEL

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
LINES = [
    line.split(" #")[0].strip()
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if re.match(r"(maskgolf|torchrun|make|python) ", line)
]
TINY = (
    *TINY_MODEL,
    *("--training.iterations", "4", "--training.checkpoint_every", "2"),
    *("--model.length", "64", "--training.tokens_per_step", "128"),
    *("--training.micro_batch_tokens", "128"),
    *("--model.mixing", "1", "--model.shift", "true", "--model.causal_share", "0.5"),
)
# What is asked of tiny models, of this machine, and of a few words: (in README, here)
SMALLER = [
    ("torchrun --standalone --nproc_per_node=8 -m harness", "maskgolf"),
    ("--preset best", " ".join(TINY)),
    ("--device cuda", "--device cpu"),
    ("parity --device cpu --compiled", "parity masks --device cpu"),
    ("data build notes.txt", "data build notes.txt --vocab 400"),
]
# Minutes of compiling, a network, or another project's file: the test that runs the same command
ELSEWHERE = {
    "maskgolf bench step": "tests/harness/test_bench_step.py",
    "maskgolf bench formats": "tests/harness/test_bench_formats.py",
    "maskgolf data fineweb": "tests/harness/test_flags.py",
    "maskgolf import": "tests/harness/test_importers.py",
}


def here(line: str) -> list[str]:
    """Return the words of a command as this machine runs it in seconds."""
    for there, smaller in SMALLER:
        line = line.replace(there, smaller)
    return shlex.split(line)


@pytest.fixture(scope="module")
def home(corpus, tmp_path_factory) -> Path:
    """Return a folder in which the commands that train and pack were run in README's order."""
    from pydoc_data.topics import topics

    home = tmp_path_factory.mktemp("readme")
    shutil.copytree(corpus, home / "fineweb")
    names = ("if", "while", "for", "try", "class", "with")
    (home / "notes.txt").write_text("\n".join(topics[name] for name in names))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for line in LINES:
            if " train " in line and "--dry-run" not in line:
                assert cli.main(here(line)[1:]) == 0
        shutil.copytree("runs/s1", "runs/demo")
    return home


def test_the_readme_has_commands_for_each_reader():
    kinds = {line.split()[0] for line in LINES}
    assert kinds == {"make", "maskgolf", "torchrun"} and len(LINES) > 20


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_targets_are_there(line):
    words = [word for word in shlex.split(line) if "=DIR" not in word]
    assert subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith("make ")])
def test_commands_run(line, home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setattr(size, "FISHER_WINDOWS", 4)
    monkeypatch.setattr(size, "FISHER_TOKENS", 256)
    for command, file in ELSEWHERE.items():
        if line.startswith(command):
            assert all(f'"{word}"' in (ROOT / file).read_text() for word in command.split()[1:])
            return
    words = here(line)[1:]
    if words[0] == "train" and "--dry-run" not in words:
        words += ["--overwrite"]
    if words[0] == "validate" and not Path(words[1]).exists():
        [pack] = [other for other in LINES if other.startswith("maskgolf pack")]
        assert cli.main(here(pack)[1:]) == 0
    if words[0] == "pack":
        shutil.rmtree("records", ignore_errors=True)
    assert cli.main(words) == 0


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_examples_run(code, home, monkeypatch):
    monkeypatch.chdir(home)
    exec(compile(code, "README.md", "exec"), {})


def test_links_lead_somewhere():
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        assert not path or (ROOT / path).exists(), target
        assert not anchor or anchor in headings, target
