"""A process of `bench device` whose parts misbehave: `python -m tests.support.planted REQUEST` in
place of harness.bench.apart.
"""

import json
import os
import signal
import sys
import time

from harness.bench import apart, device, measure

TIMED = measure.row("timed", 2.0, 1.0, 2.0, 2.0, 2.0, 1, "ms")


def raises():
    """Fail as any job may."""
    raise ValueError("planted")


def breaks_the_device():
    """Fail so that nothing computes in this process any more."""
    measure.alive = lambda device: False
    raise RuntimeError("CUDA error: planted")


def hangs():
    """Wait where no alarm is heard, as in a kernel that never ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(600)


def fine():
    """Return a row."""
    return TIMED


device.PARTS = {
    "first": lambda bench: iter(
        [
            ("fine", fine),
            ("raises", raises),
            ("aborts", os.abort),
            ("fine again", fine),
            ("breaks the device", breaks_the_device),
            ("fine at last", fine),
        ]
    ),
    "step": lambda bench: iter([("before", fine), ("hangs", hangs), ("never", fine)]),
    "muon": lambda bench: iter([("after", fine)]),
}

if __name__ == "__main__":
    os._exit(apart.main(json.loads(sys.argv[1])))
