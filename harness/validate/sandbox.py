"""Runs a program of a submission: a temporary copy, a fresh process, no network, no writing
outside, no secrets, limited time and memory.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

from harness.validate.submission import Submission

MEMORY = 1 << 35  # bytes of data of one process
FILE = 1 << 31  # bytes of one file
TAIL = 20_000  # characters kept of each output
PASSED_ON = (
    "PATH",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CC",
    "CXX",
    "CUDA_HOME",
    "LANG",
    "LC_ALL",
)
BLOCKED = (
    "harness",
    "fast",
    "reference",
    "tests",
)  # ours: installed here, not where a submission runs
UNSHARE = (
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--propagation",
    "private",
)
# Bind the box to itself, make everything else read-only with the flags it has, go on as the
# program.
ENTER = """
box=$1; shift
mount --bind "$box" "$box" && mount --bind "$box/shm" /dev/shm || exit 97
while read -r _ _ _ _ point flags _; do
  case "$point" in "$box"|/dev/shm) ;; *) mount -o "remount,bind,ro,${flags#r?,}" "$point" 2>/dev/null ;; esac
done < /proc/self/mountinfo
( : > "$box/../.writable" ) 2>/dev/null && exit 97
cd "$box/folder" && exec "$@"
"""


class Ran(NamedTuple):
    """What a program did: its exit code (None: stopped at the time limit), its outputs' ends, and
    what the guard noted.
    """

    code: int | None
    seconds: float
    out: str
    err: str
    notes: tuple[tuple[str, str], ...]
    kernel: bool  # whether the kernel kept it from network and files, not the interpreter alone

    def noted(self, kind: str) -> list[str]:
        """Return the notes of a kind, each once."""
        return list(dict.fromkeys(what for noted, what in self.notes if noted == kind))


class Box:
    """A temporary copy of a submission, with a home, a place for temporary files and the guard."""

    def __init__(self, submission: Submission):
        """Copy the listed regular files; links do not come along."""
        self.root = Path(os.path.realpath(tempfile.mkdtemp(prefix="maskgolf-")))
        self.folder = self.root / "folder"
        for name in ("folder", "home", "tmp", "shm", "guard", "data"):
            (self.root / name).mkdir()
        for name in submission.files:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(submission.path(name), self.folder / name, follow_symlinks=False)
        shutil.copyfile(
            Path(__file__).with_name("guard.py"), self.root / "guard" / "sitecustomize.py"
        )

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
        guard = self.root / "guard"
        config = {
            "writable": str(self.root),
            "traced": str(self.root / "data"),
            "memory": MEMORY,
            "file": FILE,
            "blocked": BLOCKED,
        }
        (guard / "config.json").write_text(json.dumps(config))
        (guard / "notes").unlink(missing_ok=True)
        kernel = has_namespaces()
        command = [sys.executable, *arguments]
        if kernel:
            command = [*UNSHARE, "sh", "-c", ENTER, "enter", str(self.root), *command]
        out, err = guard / "out", guard / "err"
        started = time.monotonic()
        with open(out, "wb") as out_file, open(err, "wb") as err_file:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment(variables or {}),
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
                _end(process)
        return Ran(
            code,
            time.monotonic() - started,
            _tail(out),
            _tail(err),
            _notes(guard / "notes"),
            kernel,
        )

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        temporary = str(self.root / "tmp")
        own = {
            "HOME": str(self.root / "home"),
            "TMPDIR": temporary,
            "TORCHINDUCTOR_CACHE_DIR": temporary,
            "TRITON_CACHE_DIR": temporary,
            "PYTHONPATH": str(self.root / "guard"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        return (
            {name: os.environ[name] for name in PASSED_ON if name in os.environ} | own | variables
        )


@cache
def has_namespaces() -> bool:
    """Return whether this system lets an ordinary process shut off network and files for its
    children.
    """
    root = Path(os.path.realpath(tempfile.mkdtemp(prefix="maskgolf-")))
    try:
        for name in ("folder", "shm"):
            (root / name).mkdir()
        tried = [*UNSHARE, "sh", "-c", ENTER, "enter", str(root), sys.executable, "-c", "pass"]
        return subprocess.run(tried, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _end(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _tail(file: Path) -> str:
    with open(file, "rb") as opened:
        opened.seek(max(0, file.stat().st_size - TAIL))
        return opened.read().decode("utf-8", "replace")


def _notes(file: Path) -> tuple[tuple[str, str], ...]:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return ()
    found = []
    for line in lines:
        try:
            kind, what = json.loads(line)
        except ValueError:
            continue
        found.append((str(kind), str(what)))
    return tuple(found)
