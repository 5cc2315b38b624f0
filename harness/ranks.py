"""What a rank under torchrun prints: rank 0 the results and the errors that all ranks share, any
other rank only errors of its own.
"""

import contextlib
import os
import sys
import time

from fast.errors import Interrupted, PeerFailed, PeerLost, TrainingError

# Seconds that a silent rank waits for the one that prints; torchrun ends it as soon as that one has
# ended.
UNTIL_ENDED = 40.0


def rank() -> int:
    """Return this process's rank as torchrun set it; 0 without torchrun or for a bad value."""
    try:
        number, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 0
    return number if 0 <= number < size else 0


def is_printed_by_another(error: BaseException) -> bool:
    """Return whether another rank prints this error: one that stopped all ranks, or one from before
    they were connected.
    """
    shared = (PeerFailed, PeerLost, Interrupted, TrainingError)
    return rank() > 0 and (isinstance(error, shared) or not _is_connected())


def _is_connected() -> bool:
    """Return whether this process is connected to others, which needs torch."""
    return "torch" in sys.modules and sys.modules["torch"].distributed.is_initialized()


def wait_for_printing_rank(error: BaseException | None = None) -> None:
    """Wait until the rank that prints has ended: torchrun reports the first exit code, and ends all
    other ranks at once.
    """
    if _is_connected():
        from fast.distributed import wait_for_exit

        wait_for_exit(error.rank if isinstance(error, PeerFailed) else 0)
    else:
        time.sleep(UNTIL_ENDED)


@contextlib.contextmanager
def only_rank_0_prints():
    """Suppress on every rank but 0 what the arguments alone cause: help, and errors in them."""
    if rank() == 0:
        yield
        return
    with (
        open(os.devnull, "w") as null,
        contextlib.redirect_stdout(null),
        contextlib.redirect_stderr(null),
    ):
        try:
            yield
        except SystemExit as end:
            if end.code:
                wait_for_printing_rank()
            raise
