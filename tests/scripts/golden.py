"""Record what the command line makes and prints, to hold a change that should change nothing.

    python -m tests.scripts.golden before/        at one commit
    python -m tests.scripts.golden after/         at another, on the same machine
    diff -r before after

Every command runs as a user runs it, uncompiled and on one thread, so that its floats repeat on one
machine. What cannot repeat (seconds, dates, folders) is masked. About two minutes.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.corpus import documents

COMMANDS = {
    "train": ["train", "--out", "run", "--overwrite", "--no-compiled", "--json", "-"],
    "train-causal": [
        "train",
        "--out",
        "causal",
        "--overwrite",
        "--no-compiled",
        "--model.causal",
        "True",
        "--json",
        "-",
    ],
    "eval": ["eval", "run", "--no-compiled", "--sequences", "8", "--draws", "4", "--json", "-"],
    "eval-causal": ["eval", "causal", "--no-compiled", "--sequences", "8", "--json", "-"],
    "eval-chain": [
        "eval",
        "run",
        "--no-compiled",
        "--sequences",
        "2",
        "--estimator",
        "chain",
        "--order",
        "confidence",
        "--json",
        "-",
    ],
    "eval-grid": [
        "eval",
        "run",
        "--no-compiled",
        "--sequences",
        "2",
        "--estimator",
        "nelbo-grid",
        "--json",
        "-",
    ],
    "eval-both": ["eval", "run", "causal", "--no-compiled", "--sequences", "4", "--draws", "4"],
    "parity": ["parity", "attention", "rope", "muon", "quantize-float32", "masks", "--json", "-"],
    "sample": ["sample", "run", "--count", "2", "--json", "-"],
    "report": ["report", "run", "causal"],
    "watch": ["watch", "run"],
    "compress": ["compress", "short.txt", "--run", "run"],
    "decompress": ["decompress", "short.txt.mgz", "--run", "run", "--out", "again.txt"],
    "pack": [
        "pack",
        "run",
        "--name",
        "N",
        "--author",
        "A",
        "--github-id",
        "a",
        "--date",
        "2026-01-02",
        "--out",
        "packed",
    ],
    "validate": ["validate", "packed/2026-01-02_N", "--json", "-"],
    "validate-text": ["validate", "packed/2026-01-02_N"],
    "data-build": ["data", "build", "text.txt", "--out", "corpus", "--vocab", "400"],
    "data-list": ["data", "list", "corpus"],
    "no-such-run": ["eval", "nowhere"],
    "no-such-flag": ["train", "--nonsense", "1"],
    "bad-recipe": ["train", "--preset", "tiny", "--model.heads", "3"],
}
SHAPE = [
    "--preset",
    "tiny",
    "--model.vocab",
    "400",
    "--model.length",
    "64",
    "--training.iterations",
    "12",
    "--training.warmdown",
    "4",
    "--training.tokens-per-step",
    "512",
    "--training.micro-batch-tokens",
    "256",
    "--text",
    "text.txt",
]
HELP = (
    "",
    *"demo train eval parity bench sample report watch compress decompress pack validate import data".split(),
)
VOLATILE = (
    (re.compile(r'"[^"]*(seconds|date|elapsed|per_second)[^"]*": [-0-9.e"T:Z]+'), '"TIME"'),
    (re.compile(r"[0-9.]+ ?(ms|s|min|seconds|tokens/s)\b"), "TIME"),
    (re.compile(r"(seconds +│) +[0-9.]+"), r"\1 TIME"),
    (re.compile(r"(│ +[\d,]+ │ +\d+ │) +[\d,]+ │"), r"\1 TIME │"),  # the report's tokens per second
    (re.compile(r"20\d\d-\d\d-\d\d\S*"), "DATE"),
)


def masked(text: str, folder: Path) -> str:
    """Return text without what differs from one run to the next."""
    text = text.replace(str(folder), "FOLDER")
    for pattern, name in VOLATILE:
        text = pattern.sub(name, text)
    return text


def main(out: Path) -> None:
    """Write one file per command, and the digest of every file that the commands made."""
    if out.exists():
        sys.exit(f"golden: expected a folder that does not exist yet, found {out}; name another")
    out.mkdir(parents=True)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = "\n".join(documents.embedded_corpus().train)[:60_000]
        (folder / "text.txt").write_text(text)
        (folder / "short.txt").write_text(text[:400])

        def run(label: str, *arguments: str) -> None:
            command = [sys.executable, "-m", "harness", *arguments]
            done = subprocess.run(
                command, cwd=folder, env=environment, text=True, capture_output=True
            )
            said = f"exit {done.returncode}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
            (out / f"{label}.txt").write_text(masked(said, folder))
            print(label, done.returncode, flush=True)

        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        for command in HELP:
            run(f"help {command}".strip(), *command.split(), "--help")
        for label, arguments in COMMANDS.items():
            run(label, *arguments, *(SHAPE if label.startswith("train") else []))
        digests = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in {".pt", ".log", ".jsonl"}:
                content = path.read_bytes()
                if path.suffix in {".json", ".md", ".txt", ".py"}:
                    content = masked(content.decode(), folder).encode()
                digests[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
        (out / "files.json").write_text(json.dumps(digests, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
