"""Runs a program of a submission: a temporary copy, a fresh process, no network, no writing
outside, no secrets, limited time and memory. The kernel's namespaces hold it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from harness.validate.submission import Submission

MEMORY = 1 << 35  # bytes of data of one process
FILE = 1 << 31  # bytes of one file
TAIL = 20_000  # characters kept of each output
MAX_NOTES = 1 << 24  # bytes of what the observer wrote
PASSED_ON = (
    "PATH LD_LIBRARY_PATH OMP_NUM_THREADS CUDA_VISIBLE_DEVICES CC CXX CUDA_HOME LANG LC_ALL"
).split()
UNSHARE = (
    "unshare --user --map-root-user --net --mount --pid --fork --kill-child --propagation private"
).split()
# Bind the box to itself, make everything else read-only with the flags it has, go on as the
# program.
ENTER = f"""
ulimit -d {MEMORY >> 10}; ulimit -f {FILE >> 9}; ulimit -c 0
box=$1; shift
mount --bind "$box" "$box" && mount --bind "$box/shm" /dev/shm || exit 97
while read -r _ _ _ _ point flags _; do
  case "$point" in
    "$box"|/dev/shm) ;;
    *) mount -o "remount,bind,ro,${{flags#r?,}}" "$point" 2>/dev/null ;;
  esac
done < /proc/self/mountinfo
( : > "$box/../.writable" ) 2>/dev/null && exit 97
cd "$box/folder" && exec "$@"
"""


class Ran(NamedTuple):
    """What a program did: its exit code (None: stopped at the time limit), its outputs' ends, and
    (kind, what) as the observer noted it.
    """

    code: int | None
    seconds: float
    out: str
    err: str
    notes: tuple[tuple[str, str], ...]

    def noted(self, kind: str) -> list[str]:
        """Return the notes of a kind, each once."""
        return list(dict.fromkeys(what for noted, what in self.notes if noted == kind))


class Box:
    """A temporary copy of a submission, with a home, a folder for temporary files and the
    observer.
    """

    def __init__(self, submission: Submission):
        """Copy the listed regular files; links do not come along."""
        self.progress = submission.options.progress
        self.root = _folders("folder", "home", "tmp", "shm", "observer", "data")
        self.folder = self.root / "folder"
        for name in submission.files:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(submission.root / name, self.folder / name, follow_symlinks=False)
        observer = Path(__file__).with_name("observer.py")
        shutil.copyfile(observer, self.root / "observer" / "sitecustomize.py")

    def __enter__(self) -> "Box":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def run(
        self, arguments: list[str], seconds: float, variables: dict[str, str] | None = None
    ) -> Ran:
        """Run Python with these arguments in the copy; the whole process group ends at the time
        limit.
        """
        out, err, notes = (self.root / "observer" / name for name in ("out", "err", "notes"))
        notes.unlink(missing_ok=True)
        temporary = dict.fromkeys(
            ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"), str(self.root / "tmp")
        )
        environment = {
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
            **temporary,
            "HOME": str(self.root / "home"),
            "PYTHONPATH": str(self.root / "observer"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            **(variables or {}),
        }
        what = "executes the submission's code in a box"
        self.progress.say(f"{self.progress.title}: {what}, at most {seconds:.0f} s")
        started = time.monotonic()
        # Read again through these files: the program may put something else in their place.
        with open(out, "w+b") as out_file, open(err, "w+b") as err_file:
            process = subprocess.Popen(
                _fenced(self.root, arguments),
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output, errors = _tail(out_file), _tail(err_file)
        seconds = time.monotonic() - started
        return Ran(code, seconds, output, errors, _notes(notes))


def _folders(*names: str) -> Path:
    """Return a new temporary folder that holds folders of these names."""
    root = Path(os.path.realpath(tempfile.mkdtemp(prefix="maskgolf-")))
    for name in names:
        (root / name).mkdir()
    return root


def _fenced(root: Path, arguments: list[str]) -> list[str]:
    return [*UNSHARE, "sh", "-c", ENTER, "enter", str(root), sys.executable, *arguments]


@cache
def has_namespaces() -> bool:
    """Return whether this system lets an ordinary process shut off network and files for its
    children.
    """
    root = _folders("folder", "shm")
    try:
        command = _fenced(root, ["-c", "pass"])
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _tail(file: BinaryIO) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
    return file.read(TAIL).decode("utf-8", "replace")


def _notes(file: Path) -> tuple[tuple[str, str], ...]:
    notes = []
    if not file.is_file() or file.is_symlink():
        return ()
    with open(file, "rb") as opened:
        lines = opened.read(MAX_NOTES).splitlines()
    for line in lines:
        # The program itself may have written the line.
        with suppress(ValueError, TypeError, RecursionError):
            kind, what = json.loads(line)
            notes.append((str(kind), str(what)))
    return tuple(notes)
