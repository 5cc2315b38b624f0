"""Ctrl-C (SIGINT) ends a command with exit code 130 and one line at most, whenever it comes.

Until torch is loaded, and once the result is out, nothing is held: the process ends at once. In
between KeyboardInterrupt is raised, as Python does by itself, but never within an import, which may
swallow it or leave a library half loaded, and again where a finalizer swallowed it. The training
loop has handlers of its own (fast.distributed.stop_on_all_ranks).
"""

import _thread
import os
import signal
import sys
import time

CODE = 128 + signal.SIGINT
RETRY = 0.05  # seconds until an interrupt that cannot be raised yet is tried again
IMPORT = "<frozen importlib"  # how the files of Python's import machinery begin

came = False  # whether KeyboardInterrupt has been raised
_waiting = False


def answer() -> None:
    """Answer SIGINT from now on; where it is ignored, as under nohup, it stays so."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    signal.signal(signal.SIGINT, _receive)
    sys.unraisablehook = _unraisable


def finish(code: int) -> None:
    """The result is out: from now on SIGINT ends the process at once. After an interrupt it ends
    here, with this code: Python may end by the signal itself, and libraries crash on their way out.
    """
    if signal.getsignal(signal.SIGINT) is _receive:
        signal.signal(signal.SIGINT, _exit)
    if came:
        sys.stderr.flush()
        os._exit(code)


def _exit(number=None, frame=None) -> None:
    """End the process here and now, with one line from rank 0 if there was none yet."""
    if not came and os.environ.get("RANK", "0") == "0":
        os.write(2, b"maskgolf: interrupted\n")
    os._exit(CODE)


def _receive(number, frame) -> None:
    global came
    if not _is_loaded("torch"):
        _exit()
    if _is_importing(frame):
        _try_again()
        return
    came = True
    raise KeyboardInterrupt


def _is_loaded(name: str) -> bool:
    """Return whether a module's import has ended."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def _is_importing(frame) -> bool:
    """Return whether a frame is within an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(IMPORT):
            return True
        frame = frame.f_back
    return False


def _try_again() -> None:
    """Send SIGINT again in a moment, once for any number of calls."""
    global _waiting
    if _waiting:
        return
    _waiting = True

    def wait() -> None:
        global _waiting
        time.sleep(RETRY)
        _waiting = False
        _thread.interrupt_main()

    _thread.start_new_thread(wait, ())


def _unraisable(failure) -> None:
    """Print what a finalizer raised, as Python does, but raise an interrupt again."""
    if issubclass(failure.exc_type, KeyboardInterrupt):
        _try_again()
    else:
        sys.__unraisablehook__(failure)
