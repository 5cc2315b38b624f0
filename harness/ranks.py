"""Several processes under torchrun, one voice: rank 0 shows results and says what all know; any
other rank only what it alone knows.
"""

import contextlib
import os
import sys
import time

from fast.errors import Interrupted, PeerFailed, PeerLost, TrainingError

# seconds that a silent rank leaves to the one that speaks; torchrun ends it as soon as that one has
# ended
UNTIL_ENDED = 40.0


def rank() -> int:
    """Return the number that torchrun gave this process; 0 without torchrun, and for what torchrun
    would not say.
    """
    try:
        number, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 0
    return number if 0 <= number < size else 0


def silent(error: BaseException) -> bool:
    """Return whether another rank says what this error is: what was known before the ranks met, or
    what stopped all of them together.
    """
    known = (PeerFailed, PeerLost, Interrupted, TrainingError)
    return rank() > 0 and (isinstance(error, known) or not _joined())


def _joined() -> bool:
    """Return whether this process and others have met; without torch they cannot have."""
    return "torch" in sys.modules and sys.modules["torch"].distributed.is_initialized()


def give_way(error: BaseException | None = None) -> None:
    """Let the rank that speaks end first: the first exit code that torchrun sees is the one it
    reports, and it ends all others at once.
    """
    if _joined():
        from fast.distributed import wait_for_end_of

        wait_for_end_of(error.rank if isinstance(error, PeerFailed) else 0)
    else:
        time.sleep(UNTIL_ENDED)


@contextlib.contextmanager
def one_voice():
    """Keep every rank but 0 from printing what the arguments alone cause: help, and errors in
    them.
    """
    if rank() == 0:
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            yield
        except SystemExit as end:
            if end.code:
                give_way()
            raise
