"""Every float32 bit pattern through both halves of fp8: `python -m tests.scripts.exhaustive` (all
2^32 patterns, minutes on two cores).

Example: `python -m tests.scripts.exhaustive --start 0x3f800000 --stop 0x40000000 --workers 2`. Exit
status 0 when the halves agree, 1 when not.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

import fast.fp8
import reference.fp8

PATTERNS = 1 << 32
CHUNK = 1 << 22  # patterns per piece of work: about 150 MB of temporaries per worker


def check_slice(start: int, stop: int, encode: Callable = fast.fp8.encode) -> list[str]:
    """Mismatches between the reference and `encode` over the float32 patterns start <= p < stop, at
    most one per kind, said in words.
    """
    patterns = np.arange(start, stop, dtype=np.uint64).astype(np.uint32)
    patterns = patterns[~np.isnan(patterns.view(np.float32))]  # NaN is an error, tested by itself
    values = patterns.view(np.float32)
    found = []
    for kind in reference.fp8.KINDS:
        expected = reference.fp8.encode(values, kind)
        got = encode(torch.from_numpy(values), kind).numpy()
        wrong = np.flatnonzero(expected != got)
        if wrong.size:
            i = wrong[0]
            first = (
                f"first at pattern {patterns[i]:#010x} ({values[i]!r}): {expected[i]} and {got[i]}"
            )
            found.append(f"{kind}: {wrong.size} mismatches, {first}")
    return found


def check_chunk(bounds: tuple[int, int]) -> list[str]:
    """check_slice of one piece of work, on one thread: the workers are the parallelism."""
    torch.set_num_threads(1)
    return check_slice(*bounds)


def main(arguments: list[str] | None = None) -> int:
    """Check the patterns from --start up to --stop in chunks, with progress; returns the exit
    status.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--start", type=lambda text: int(text, 0), default=0, help="first bit pattern"
    )
    parser.add_argument(
        "--stop",
        type=lambda text: int(text, 0),
        default=PATTERNS,
        help="one past the last bit pattern",
    )
    parser.add_argument(
        "--workers", type=int, default=multiprocessing.cpu_count(), help="processes"
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.start < options.stop <= PATTERNS or options.workers < 1:
        parser.error(f"expected 0 <= start < stop <= {PATTERNS:#x} and at least one worker")
    bounds = [
        (low, min(low + CHUNK, options.stop)) for low in range(options.start, options.stop, CHUNK)
    ]
    begin, failures = time.monotonic(), []
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for done, found in enumerate(pool.imap(check_chunk, bounds), 1):
            failures += found
            if done % 16 == 0 or done == len(bounds):
                seconds = time.monotonic() - begin
                left = seconds / done * (len(bounds) - done)
                print(
                    f"{done}/{len(bounds)} chunks, {len(failures)} mismatching, {seconds:.0f} s,"
                    f" {left:.0f} s left",
                    flush=True,
                )
    for failure in failures[:10]:
        print(failure, file=sys.stderr)
    count = options.stop - options.start
    print(
        f"{count} float32 patterns x {len(reference.fp8.KINDS)} kinds:"
        f" {'MISMATCH' if failures else 'the halves agree'}"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
