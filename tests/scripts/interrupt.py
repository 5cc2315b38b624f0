"""Interrupt commands with SIGINT at many moments of their first seconds, and count how they end.

    python -m tests.scripts.interrupt RUN [--tries 60] [--latest 6]

RUN is a finished run. A command that was interrupted exits with 130 and prints at most one line
that begins with "maskgolf: ". Before Python has its own handler the system ends the process (killed
early), and until the command's first line runs the interpreter answers as it does (python's start).
"""

import argparse
import collections
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.commands import TINY_MODEL

FIRST = 0.02  # seconds until the earliest interrupt


def commands(run: Path, folder: Path) -> dict[str, list[str]]:
    """Return the arguments of commands that are still at work after some seconds."""
    train = ["train", *TINY_MODEL, "--training.iterations", "100000", "--overwrite"]
    train += ["--out", str(folder / "run")]
    return {
        "eval": ["eval", str(run), "--no-compiled"],
        "train": train,
        "report": ["report", *[str(run)] * 3, "--plot", str(folder / "curves.png")],
        "parity": ["parity"],
    }


def ending(arguments: list[str], delay: float) -> str:
    """Return how a command ends that is interrupted `delay` seconds after its start."""
    command = [sys.executable, "-m", "harness", *arguments]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        try:
            said = process.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            return "went on"
    code = process.returncode
    if code == -signal.SIGINT and not said:
        return "killed early"
    lines = [line for line in said.splitlines() if line.startswith("maskgolf: ")]
    if re.search("Traceback|Fatal|Exception ignored|Error in", said):
        early = "harness/cli.py" not in said and "harness/__main__.py" not in said
        return f"{code}, traceback{' of the start' if early else ''}"
    return f"{code}, {len(lines)} messages"


def main() -> None:
    """Print how often each command ended in each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--tries", type=int, default=60)
    parser.add_argument("--latest", type=float, default=6.0)
    arguments = parser.parse_args()
    # where a shell started this in the background, the commands would inherit that it is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        table = list(commands(arguments.run, Path(folder)).items())
        endings = collections.Counter()
        for index in range(arguments.tries):
            # most of the moments early, where little time holds much
            share = index / max(arguments.tries - 1, 1)
            delay = FIRST * (arguments.latest / FIRST) ** share
            name, words = table[index % len(table)]
            end = ending(words, delay)
            endings[name, end] += 1
            print(f"{name:8} {delay:6.2f} s  {end}", flush=True)
    for (name, end), count in sorted(endings.items()):
        print(f"{count:4}  {name:8} {end}")


if __name__ == "__main__":
    main()
