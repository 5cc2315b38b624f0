"""Record what `maskgolf sample` shows on a terminal as it draws, as frames of plain text.

    python -m tests.scripts.recording runs/demo assets/sample.txt

The command runs on a terminal of 72 columns. The text is that of the seed, the times are those of
this machine. Arguments behind the two take the place of the prompt and the order.
"""

import codecs
import os
import pty
import re
import shlex
import subprocess
import sys
import time
from bisect import bisect_right
from pathlib import Path

from tests.support.terminal import Screen

WIDTH, HEIGHT = 72, 40
ARGUMENTS = ["--prompt", "The class statement", "--order", "confidence", "--temperature", "0.7"]
FRAMES = 5  # before the last one
TAKEN_AWAY = re.compile(r"\r(?:\x1b\[1A)?\x1b\[2K")  # how rich begins the next frame, or the end


def written_by(command: list[str]) -> list[tuple[float, str]]:
    """Return (seconds since the start, text) of everything that a command writes to a terminal;
    SystemExit with that where it fails.
    """
    ours, theirs = pty.openpty()
    sizes = {"COLUMNS": str(WIDTH), "LINES": str(HEIGHT), "TERM": "xterm-256color"}
    begun, decoder, written = time.monotonic(), codecs.getincrementaldecoder("utf-8")(), []
    given = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "env": os.environ | sizes}
    with subprocess.Popen(command, **given) as child:
        os.close(theirs)
        while True:
            try:
                part = os.read(ours, 2**16)
            except OSError:  # Linux, where nobody has the other end any more
                break
            if not part:
                break
            written.append((time.monotonic() - begun, decoder.decode(part)))
    os.close(ours)
    if child.returncode:
        sys.exit("".join(text for _, text in written))
    return written


def frames_of(written: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return (seconds, screen) of every frame; the last is what stays."""
    text, ends = "", []
    for _, part in written:
        text += part
        ends.append(len(text))
    screen, frames, begin = Screen(WIDTH, HEIGHT), [], 0
    for end in [*(match.start() for match in TAKEN_AWAY.finditer(text)), len(text)]:
        screen.feed(text[begin:end])
        begin = end
        if screen.text().strip():
            read = min(bisect_right(ends, end - 1), len(written) - 1)
            frames.append((written[read][0], screen.text().strip("\n")))
    return frames


def some(frames: list, count: int) -> list:
    """Return `count` entries of a list, evenly spaced from the first on, and the last one."""
    last = len(frames) - 1
    return [frames[i] for i in sorted({i * last // count for i in range(count)} | {last})]


def main(run: str, out: str, *arguments: str) -> None:
    """Write the recording of one command."""
    words = ["sample", run, *(arguments or ARGUMENTS)]
    frames = frames_of(written_by([sys.executable, "-m", "harness", *words]))
    parts = [f"$ maskgolf {shlex.join(words)}\n"]
    parts += [f"[{seconds:.1f} s]\n{screen}\n" for seconds, screen in some(frames, FRAMES)]
    Path(out).write_text("\n".join(parts))
    print(f"{out}: {len(parts) - 1} of {len(frames)} frames, {frames[-1][0]:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
