"""The parts of `bench device` in processes of their own: one that hangs, dies or breaks the
device's context loses itself alone.

`python -m harness.bench.apart REQUEST` is such a process. It appends to a file a line of JSON
before each job and one after it; the parent reads them as they come, and starts the part again
behind a job that took the process with it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from harness.bench import device, measure

OUT_OF_TIME, BROKEN = 70, 71  # exit codes: the alarm rang; the device computes no more
GRACE = 5.0  # seconds that a process gets to end after its alarm
POLL = 0.05  # seconds
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Settings:
    """What every process is told."""

    device: str
    smoke: bool
    compiled: bool
    pairs: int
    folder: str  # for what it reads and writes


@dataclass
class Progress:
    """What is known of a part: jobs that are over, the one that runs."""

    done: list[str]
    current: str | None = None


def command(request: dict) -> list[str]:
    """Return the command of a process that measures what is left of a part."""
    return [sys.executable, "-m", "harness.bench.apart", json.dumps(request)]


def finished(
    settings: Settings, say: Callable[[str], None], part: str, limit: float, record
) -> bool:
    """Measure a part in one process, or in several where jobs take theirs with them; return whether
    so many seconds sufficed. say(text) is called after a death.
    """
    progress, stops = Progress([]), time.monotonic() + limit
    while True:
        before = len(progress.done)
        code, last = one_process(part, settings, stops, record, progress)
        if code in (OUT_OF_TIME, None):
            return False
        if code not in (0, BROKEN):
            note = f"failed: the process ended by {_cause(code)}{': ' if last else ''}{last}"
            name = progress.current or device.rest_of(part)
            record.add(part, name, measure.noted(name, note))
            if progress.current:
                progress.done.append(progress.current)
        if code == 0 or len(progress.done) == before or device.rest_of(part) in progress.done:
            return True
        say(f"{part}: goes on in a new process")


def one_process(
    part: str, settings: Settings, stops: float, record, progress: Progress
) -> tuple[int | None, str]:
    """Run one process of a part to its end; return (exit code, its last words), None for one that
    had to be killed.
    """
    file, spoken = Path(settings.folder, "rows"), Path(settings.folder, "output")
    file.write_bytes(b"")
    progress.current = None
    request = {
        "part": part,
        "done": progress.done,
        "stops": stops,
        "file": str(file),
        "settings": asdict(settings),
    }
    # Where algorithms that do not repeat are errors, torch wants to hear of the workspaces of
    # cuBLAS; this is what it gives an H100 itself.
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} | os.environ
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    )
    with open(spoken, "wb") as output, open(file, "rb") as lines:
        process = subprocess.Popen(
            command(request),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        try:
            code = attend(process, lines, stops + GRACE, partial(take, part, record, progress))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its compilers too
            process.stdin.close()
            process.wait(10)
    return code, last_line(spoken)


def attend(
    process: subprocess.Popen, lines, stops: float, hand_on: Callable[[dict], None]
) -> int | None:
    """Hand on what a process writes until it ends; return its exit code, None where it still runs
    at the monotonic time `stops`.
    """
    rest = b""
    while True:
        code = process.poll()
        *whole, rest = (rest + lines.read()).split(b"\n")
        for line in whole:
            hand_on(json.loads(line))
        if code is not None or time.monotonic() > stops:
            return code
        time.sleep(POLL)


def take(part: str, record, progress: Progress, line: dict) -> None:
    """Take over one line of a process."""
    if "begun" in line:
        progress.current = line["begun"]
        return
    record.add(part, line["name"], line["row"])
    progress.done.append(line["name"])
    progress.current = None


def last_line(file: Path) -> str:
    """Return the last line of a file that says anything."""
    lines = [line.strip() for line in file.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")[:300]


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


# the process


def follow() -> None:
    """End with the parent, whose pipe closes when it is gone however it went."""
    sys.stdin.buffer.read()
    os._exit(1)


def main(request: dict) -> int:
    """Measure what is left of a part; return the exit code."""
    settings, part = Settings(**request["settings"]), request["part"]
    threading.Thread(target=follow, daemon=True).start()
    sizes = device.SMOKE_SIZES if settings.smoke else device.GOLF_SIZES
    bench = device.Bench(
        sizes, settings.device, settings.compiled, settings.pairs, Path(settings.folder)
    )

    def write(line: dict) -> None:
        with open(request["file"], "a") as file:
            file.write(json.dumps(line) + "\n")

    def add(name: str, row: dict) -> None:
        write({"name": name, "row": row})
        if (row.get("note") or "").startswith("failed") and not measure.alive(settings.device):
            os._exit(BROKEN)

    try:
        with (
            device.deadline(request["stops"] - time.monotonic()),
            torch._dynamo.config.patch(recompile_limit=64),
        ):
            device.run(part, bench, set(request["done"]), lambda name: write({"begun": name}), add)
    except device.OutOfTime:
        return OUT_OF_TIME
    return 0


if __name__ == "__main__":
    code = main(json.loads(sys.argv[1]))
    sys.stdout.flush()
    # A compiler's threads or a broken context may hang at the end of an interpreter.
    os._exit(code)
