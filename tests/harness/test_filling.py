"""Text that fills in on a terminal: what a frame shows, how wide, in which colours, and that there
is nothing of it in a pipe.
"""

import io
import os
import pty
import re
import subprocess
import sys
import time

import pytest
from rich.console import Console

from harness.display import filling, report
from tests.support.terminal import SEQUENCE, Screen

SAMPLE = {
    "row": 0,
    "text": "The cat sat",
    "parts": ["", "The", " cat", " sat"],
    "probabilities": [None, None, 0.95, 0.05],
    "reveal": [None, None, 1, 0],
}
HIDDEN = SAMPLE | {
    "parts": ["", "The", None, " sat"],
    "probabilities": [None, None, None, 0.05],
    "reveal": [None, None, None, 0],
}
LONG = {
    "row": 0,
    "parts": [f" word{i}" for i in range(400)],
    "probabilities": [0.5] * 400,
    "reveal": list(range(400)),
}


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def terminal(width: int = 80, height: int = 12, **environment) -> Console:
    """Return a console that writes to a terminal of some size."""
    sizes = {"COLUMNS": str(width), "LINES": str(height), "TERM": "xterm-256color"}
    return Console(file=Terminal(), emoji=False, _environ=sizes | environment)


def shown(renderable, console: Console) -> str:
    console.print(renderable)
    return console.file.getvalue()


def luminance(colour) -> float:
    """Return the relative luminance of a colour (WCAG 2.2)."""
    parts = [part / 255 for part in colour.triplet]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(w * part for w, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_are_told_apart_and_read():
    """Each is lighter than the one before; the text on it contrasts by 4.5 or more (WCAG 2.2, AA);
    they are steps of matplotlib's cividis.
    """
    colormaps = pytest.importorskip("matplotlib").colormaps
    light = [luminance(style.bgcolor) for style in filling.SCALE]
    assert all(b - a > 0.03 for a, b in zip(light, light[1:]))
    for place, style in enumerate(filling.SCALE):
        ends = sorted((luminance(style.color), luminance(style.bgcolor)))
        assert (ends[1] + 0.05) / (ends[0] + 0.05) >= 4.5
        expected = colormaps["cividis"](place / 4, bytes=True)[:3]
        assert max(abs(int(a) - b) for a, b in zip(expected, style.bgcolor.triplet)) <= 2


@pytest.mark.parametrize(
    ("probability", "place"),
    [(0.0, 0), (0.0999, 0), (0.1, 1), (0.3, 2), (0.59, 2), (0.6, 3), (0.9, 4), (1.0, 4)],
)
def test_a_colour_holds_from_its_edge_on(probability, place):
    assert filling.style_of(probability) is filling.SCALE[place]


def test_what_is_given_drawn_and_hidden_looks_different():
    """Bold, coloured by probability, a dim block for each token; the blocks are ASCII where the
    terminal has no others.
    """
    text = filling.filled(HIDDEN)
    assert text.plain == "The\u2591 sat"
    assert [str(span.style) for span in text.spans if span.start < span.end] == [
        "bold",
        "dim",
        str(filling.SCALE[0]),
    ]
    assert filling.filled(SAMPLE).plain == SAMPLE["text"]
    assert filling.filled(HIDDEN, "_").plain == "The_ sat"
    latin = Console(file=io.TextIOWrapper(io.BytesIO(), "latin-1"), width=80, height=9)
    [_, line] = filling.frame([HIDDEN], latin).renderables
    assert line.plain == "The_ sat"


def test_no_text_moves_the_cursor():
    """Control characters of a model or a prompt are pictures on a terminal."""
    assert (
        filling.visible("a\x1b[2J\r\x07\tb\n\x9bc\x7f")
        == "a\u241b[2J\u240d\u2407\tb\n\ufffdc\ufffd"
    )
    sample = SAMPLE | {"parts": ["", "\x1b[31m", "\x08", "\x9b"]}
    assert filling.filled(sample).plain == "\u241b[31m\u2408\ufffd"


@pytest.mark.parametrize("width", [80, 40])
def test_a_frame_is_as_large_as_the_terminal(width):
    """No line is wider, there are no more than fit, and what was drawn last is among them."""
    for done in (1, 7, 200, 399):
        parts = LONG["parts"][:done] + [None] * (400 - done)
        reveal = LONG["reveal"][:done] + [None] * (400 - done)
        sample = LONG | {"parts": parts, "reveal": reveal}
        console = terminal(width)
        lines = SEQUENCE.sub("", shown(filling.frame([sample, sample], console), console))
        lines = lines.removesuffix("\n").split("\n")
        assert len(lines) == 11 and max(map(len, lines)) == width
        assert f"word{done - 1}" in "\n".join(lines)
    assert lines[0].strip() and "sample 0" not in lines[0]


def test_a_frame_shows_what_was_drawn_last_in_any_order():
    """From right to left the end is drawn first."""
    parts = [None] * 390 + LONG["parts"][390:]
    reveal = [None] * 390 + list(range(9, -1, -1))
    probabilities = [None] * 390 + [0.5] * 10
    sample = {"row": 0, "parts": parts, "probabilities": probabilities, "reveal": reveal}
    for hidden in ("", "much longer than the window is " * 40):
        sample["parts"][0] = hidden or None
        assert "word390" in shown(filling.frame([sample], console := terminal(40)), console)


def test_colours_come_from_the_scale_unless_refused():
    """NO_COLOR keeps bold and dim, by which what is given is known."""
    colours = shown(filling.filled(SAMPLE), terminal(COLORTERM="truecolor"))
    assert "48;2;254;232;56" in colours and "48;2;0;34;78" in colours
    for refusal in ({"NO_COLOR": "1"}, {"NO_COLOR": "yes", "COLORTERM": "truecolor"}):
        plain = shown(filling.filled(HIDDEN), terminal(**refusal))
        assert "\x1b[1m" in plain and "\x1b[2m" in plain and "8;" not in plain


@pytest.fixture
def clock(monkeypatch):
    """Return a list of one time, which is what the display takes for now."""
    now = [0.0]
    monkeypatch.setattr(filling.time, "monotonic", lambda: now[0])
    return now


def test_frames_come_now_and_then_and_go_at_the_end(clock):
    """The first at once, another only after EVERY seconds; what was not shown is not described."""
    console, described = terminal(), []

    def so_far():
        described.append(clock[0])
        return [HIDDEN if clock[0] < filling.EVERY else SAMPLE]

    with filling.live(console) as watch:
        for clock[0] in (0.0, filling.EVERY / 2, filling.EVERY, 1.5 * filling.EVERY):
            watch(so_far)
        screen = Screen(80, 12)
        screen.feed(console.file.getvalue())
        assert "The cat sat" in screen.text()
    assert described == [0.0, filling.EVERY]
    screen = Screen(80, 12)
    screen.feed(console.file.getvalue())
    assert screen.text().strip() == ""


@pytest.mark.parametrize(
    "console",
    [Console(file=io.StringIO(), force_terminal=True), terminal(TERM="dumb")],
    ids=["a pipe, colours forced", "no cursor"],
)
def test_nothing_is_live_where_nothing_can_be_drawn_over(console):
    with filling.live(console) as watch:
        assert watch is None
    with filling.live(terminal(), shown=False) as watch:
        assert watch is None
    assert console.file.getvalue() == ""


def test_a_pipe_gets_the_text_as_it_is(monkeypatch):
    """No wrapping, no colours, tabs and control characters as drawn, whatever is forced."""
    text = "a\tb " + "word " * 60 + "\x1b \n  "
    file = io.StringIO()
    monkeypatch.setattr(report, "console", Console(file=file, width=80, force_terminal=True))
    report.samples([SAMPLE | {"text": text}])
    assert file.getvalue().endswith(text + "\n") and "% when drawn" not in file.getvalue()


@pytest.mark.parametrize("width", [80, 40])
def test_a_terminal_gets_colours_and_what_they_mean(width, monkeypatch):
    console = terminal(width)
    monkeypatch.setattr(report, "console", console)
    report.samples([SAMPLE, SAMPLE | {"row": 1}])
    said = SEQUENCE.sub("", console.file.getvalue())
    lines = said.splitlines()
    assert max(map(len, lines)) <= width and "sample 1" in said
    assert said.count("The cat sat\n") == 2
    assert "% when drawn  <10  10+  30+  60+  90+ " in said and "given" in said
    plain = terminal(width, NO_COLOR="1")
    monkeypatch.setattr(report, "console", plain)
    report.samples([SAMPLE])
    assert "% when drawn" not in plain.file.getvalue()


def run_in_terminal(words, width: int, **environment) -> str:
    """Return what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(width)} | environment
    command = [sys.executable, "-m", "harness", *map(str, words)]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written, begun = b"", time.monotonic()
    while time.monotonic() - begun < 120:
        try:
            part = os.read(ours, 2**16)
        except OSError:  # Linux: nobody writes any more
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert child.wait() == 0, written.decode()
    return written.decode()


def test_nothing_is_written_where_nothing_is_drawn():
    """An error of the model's is all there is to see."""
    console = terminal()
    with pytest.raises(KeyError), filling.live(console):
        raise KeyError
    assert console.file.getvalue() == ""


@pytest.mark.parametrize("width", [80, 40])
def test_the_command_fills_in_on_a_terminal(run_directory, width, tmp_path):
    """A frame with hidden tokens, gone at the end; then the text, in lines that fit."""
    words = ("sample", run_directory, "--infill", "if ___ is", "--order", "confidence")
    written = run_in_terminal(words, width)
    assert "\u2591" in written and "\x1b[?25h" in written  # the cursor is back
    screen = Screen(width, 24)
    screen.feed(written)
    assert "\u2591" not in screen.text() and "sample 0" in screen.text()
    assert "if" in screen.text() and "% when drawn" in screen.text()
    assert re.search(r"\x1b\[[0-9;]*38;", written)
    quiet = run_in_terminal((*words, "--json", tmp_path / "j"), width, NO_COLOR="1")
    said = SEQUENCE.sub("", quiet)
    assert "sample 0" in said and "\u2591" not in said and "% when drawn" not in said
    assert not re.search(r"\x1b\[[0-9;]*[34]8;", quiet)
