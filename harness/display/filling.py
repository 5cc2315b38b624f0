"""Text on a terminal as it is drawn: hidden tokens as dim blocks, drawn ones on a colour that says
how probable they were.
"""

import time
import unicodedata
from bisect import bisect_right
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.rule import Rule
from rich.style import Style
from rich.text import Text

EVERY = 0.08  # seconds between two frames, at least
HIDDEN, HIDDEN_ASCII = "\u2591", "_"
GIVEN = "bold"
# Probabilities from which on each colour holds: five steps of cividis (Nunez, Anderton and Renslow
# 2018), even in lightness and the same to all kinds of colour vision, under the text that contrasts
# most.
EDGES = (0.1, 0.3, 0.6, 0.9)
SCALE = (
    Style(color="#ffffff", bgcolor="#00224e"),
    Style(color="#ffffff", bgcolor="#434e6c"),
    Style(color="#000000", bgcolor="#7d7c78"),
    Style(color="#000000", bgcolor="#bcae6c"),
    Style(color="#000000", bgcolor="#fee838"),
)


def style_of(probability: float) -> Style:
    """Return how a token of some probability is shown."""
    return SCALE[bisect_right(EDGES, probability)]


def visible(text: str) -> str:
    """Return text without what moves a terminal's cursor or changes its state: such characters as
    their pictures, or as U+FFFD.
    """
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) != "Cc"
        else chr(0x2400 + ord(character))
        if character < " "
        else "\ufffd"
        for character in text
    )


def filled(sample: dict, hidden: str = HIDDEN) -> Text:
    """Return a sample's text so far: given parts bold, drawn ones coloured, hidden ones as
    blocks.
    """
    text = Text(overflow="fold")
    for part, probability in zip(sample["parts"], sample["probabilities"], strict=True):
        if part is None:
            text.append(hidden, "dim")
        else:
            text.append(visible(part), GIVEN if probability is None else style_of(probability))
    return text


def legend() -> Text:
    """Return what the colours mean."""
    text = Text("% when drawn ")
    for least, style in zip((0, *EDGES), SCALE, strict=True):
        text.append(f" {100 * least:.0f}+ " if least else f" <{100 * EDGES[0]:.0f} ", style)
    return text.append(" ").append("given", GIVEN)


def is_terminal(console: Console) -> bool:
    """Return whether a console's output is seen by a person, and can be drawn over."""
    return console.file.isatty() and not console.is_dumb_terminal


def frame(samples: list[dict], console: Console) -> Group:
    """Return one picture of samples that fill in, no higher than the terminal: where they are, the
    lines around what was drawn last in the first one.
    """
    hidden = HIDDEN_ASCII if console.options.ascii_only else HIDDEN
    lines, latest = [], 0
    for sample in samples:
        lines.append(Rule(f"sample {sample['row']}"))
        text = filled(sample, hidden)
        if sample is samples[0]:
            latest = len(filled(_up_to_latest(sample), hidden).wrap(console, console.width))
        lines += text.wrap(console, console.width)
    height = console.height - 1
    first = min(max(0, latest - height // 2), max(0, len(lines) - height))
    return Group(*lines[first : first + height])


def _up_to_latest(sample: dict) -> dict:
    """Return a sample without what stands behind the token drawn last."""
    ranks = [-1 if rank is None else rank for rank in sample["reveal"]]
    end = 1 + ranks.index(max(ranks, default=-1)) if ranks else 0
    return {name: sample[name][:end] for name in ("parts", "probabilities")}


@contextmanager
def live(console: Console, shown: bool = True):
    """Yield a function for samples.sample() to call after each pass, which shows them on a terminal
    and takes them away at the end; None where nothing is shown.
    """
    if not (shown and is_terminal(console)):
        yield None
        return
    last, display = None, Live(console=console, auto_refresh=False, transient=True)

    def watch(so_far) -> None:
        nonlocal last
        now = time.monotonic()
        if last is None:
            display.start()
        if last is None or now - last >= EVERY:
            display.update(frame(so_far(), console), refresh=True)
            last = now

    try:
        yield watch
    finally:
        display.stop()
