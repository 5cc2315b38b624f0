"""The exit code and the one message of every failure that a user can cause; any other is a bug and
keeps its traceback.
"""

import errno
import signal

from fast.errors import Interrupted, PeerFailed, PeerLost, TrainingError
from reference.recipe import InputError

REFUSED = (  # caused by a path or a disk of the user
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)


class CheckFailed(RuntimeError):
    """A check that the command depends on failed; the message says which."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C with something to show: a message, and the result so far."""

    def __init__(self, message: str, result, show):
        """Keep the message, the JSON value and the function that shows it."""
        super().__init__(message)
        self.result, self.show = result, show


def code_and_message(error: BaseException) -> tuple[int, str | None]:
    """Return (exit code, message); no message for a bug, whose traceback is to be shown."""
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, TrainingError | CheckFailed | PeerLost | PeerFailed):
        return 1, str(error)
    if isinstance(error, Interrupted):
        number = signal.SIGTERM if "SIGTERM" in str(error) else signal.SIGINT
        return 128 + number, f"stopped by {error}; the checkpoint is written, go on with --resume"
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, str(error) or "interrupted"
    if isinstance(error, OSError) and error.errno in REFUSED:
        return (
            2,
            f"{error.filename or 'output'}: {error.strerror}; free space or choose another place",
        )
    return 1, None
