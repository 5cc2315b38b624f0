"""Kill a run with SIGKILL at random moments, resume it until it is finished, and compare it with
the run that was left alone.

    python -m tests.scripts.soak [--kills 20] [--seed 0]

Whole processes of the command, in turn alone and as two ranks under torchrun, which is killed whole
or loses one rank. Moments are drawn from the start of the process on, so that some hit its start,
most the steps, and some the writing of a checkpoint: one is written at every step. The final
weights, moments, shadow, losses and artifact must be the same to the last bit.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.support.commands import TINY_MODEL

SIZES = (1, 2)  # ranks, in turn


def options(steps: int) -> list[str]:
    """Return the options of a run of a tiny model that writes a checkpoint at every step."""
    return [
        *TINY_MODEL,
        "--training.checkpoint_every",
        "1",
        "--training.micro_batch_tokens",
        "16",
        "--training.iterations",
        str(steps),
    ]


def start(arguments: list[str], size: int) -> subprocess.Popen:
    """Start the command on `size` ranks, in a process group of its own."""
    ranks = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={size}"]
        if size > 1
        else []
    )
    command = [sys.executable, *ranks, "-m", "harness", "train", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def family(root: int) -> list[int]:
    """Return a process and its descendants, oldest first: torchrun starts each rank in a session of
    its own.
    """
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):
            status = (folder / "status").read_text().splitlines()
            parents[int(folder.name)] = int(
                next(line for line in status if line.startswith("PPid:")).split()[1]
            )
    found = [root]
    for number in found:
        found += [child for child, parent in parents.items() if parent == number]
    return found


def kill(process: subprocess.Popen, whole: bool) -> None:
    """Send SIGKILL to a run: to all of its processes at once, or to its youngest alone, and wait
    until nothing of it is left.
    """
    numbers = family(process.pid)
    for number in numbers if whole else numbers[-1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.communicate(timeout=120)
    while any(Path(f"/proc/{number}").exists() for number in numbers):
        time.sleep(0.01)


def steps_done(out: Path) -> int:
    """Return how many steps a run has recorded."""
    log = out / "metrics.jsonl"
    return log.read_text().count("train_loss") if log.exists() else 0


def killed_and_resumed(
    arguments: list[str],
    out: Path,
    kills: int,
    rng: random.Random,
    steps: int,
    sizes=SIZES,
    show=print,
) -> list[str]:
    """Finish a run through so many kills, of `sizes` ranks in turn; return where each of them
    hit.
    """
    hits = []
    for number in range(kills + 1):
        resume = ["--resume"] if (out / "checkpoint" / "latest.pt").exists() else ["--overwrite"]
        size = sizes[number % len(sizes)]
        process = start([*arguments, "--out", str(out), *resume], size)
        if number == kills:
            errors = process.communicate(timeout=600)[1]
            if process.returncode:
                raise SystemExit(f"the last resumption failed with {process.returncode}:\n{errors}")
            return hits
        before = steps_done(out)
        # -1, 0: before its first step
        target = before + rng.randint(-1, 2 * (steps - before) // (kills - number + 1))
        while process.poll() is None and steps_done(out) < target:
            time.sleep(0.001)
        # Within a step and its checkpoint, or within the start
        time.sleep(rng.uniform(0, 0.03 if target > before else 3.0))
        if process.poll():
            raise SystemExit(
                f"run {number + 1} failed by itself with"
                f" {process.returncode}:\n{process.communicate()[1]}"
            )
        kill(process, whole=size == 1 or rng.random() < 0.5)
        litter = (out / "checkpoint" / ".latest.pt.tmp").exists()
        hits.append(
            f"{size} rank{'s' * (size > 1)}, step"
            f" {steps_done(out)}{', inside a checkpoint' if litter else ''}"
        )
        show(f"kill {number + 1}: {hits[-1]}", flush=True)
    return hits


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs between two finished runs: tensors, progress, losses, artifact."""
    loaded = [
        torch.load(run / "checkpoint" / "latest.pt", weights_only=True) for run in (one, other)
    ]
    found = [
        f"{group}.{name}"
        for group, members in loaded[0]["tensors"].items()
        for name, value in members.items()
        if not torch.equal(value, loaded[1]["tensors"][group][name])
    ]
    progress = [each["progress"] for each in loaded]
    found += [
        name
        for name in ("step", "multiplier", "ema_started_step", "finished")
        if progress[0][name] != progress[1][name]
    ]
    records = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (one, other)
    ]
    losses = [
        [(record["step"], record["train_loss"]) for record in each if "train_loss" in record]
        for each in records
    ]
    found += ["losses"] * (losses[0] != losses[1])
    found += ["artifact"] * (
        (one / "artifact.mgolf").read_bytes() != (other / "artifact.mgolf").read_bytes()
    )
    found += [f"litter {path.name}" for path in one.rglob("*.tmp")]
    return found


def soak(data: list[str], folder: Path, kills: int, seed: int, steps: int, show=print) -> list[str]:
    """Return where the kills hit; SystemExit names what differs from the run that was left
    alone.
    """
    arguments = [*options(steps), *data]
    alone = start([*arguments, "--out", str(folder / "alone")], 1)
    errors = alone.communicate(timeout=600)[1]
    if alone.returncode:
        raise SystemExit(f"the uninterrupted run failed with {alone.returncode}:\n{errors}")
    hits = killed_and_resumed(
        arguments, folder / "killed", kills, random.Random(seed), steps, show=show
    )
    different = differences(folder / "killed", folder / "alone")
    if different:
        raise SystemExit(
            f"after {kills} kills (seed {seed}) these differ from the uninterrupted run:"
            f" {', '.join(different)}"
        )
    return hits


def main() -> None:
    """Soak on the embedded corpus and say what held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    chosen = parser.parse_args()
    # The same sums alone and under torchrun, which sets it for several ranks
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        hits = soak([], Path(folder), chosen.kills, chosen.seed, chosen.steps)
    inside, early = (
        sum("inside" in hit for hit in hits),
        sum(hit.endswith("step 0") for hit in hits),
    )
    kills = (
        f"{len(hits)} kills, {inside} inside the writing of a checkpoint, {early} before the first"
        " step"
    )
    print(f"{kills}: the same weights, losses and artifact, bit for bit")
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
