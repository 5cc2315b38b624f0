"""Matplotlib's SVG as a part of a page: colours that follow the page's theme, text in its font, no
id that another figure has.

Needs the plot extra. The same figure gives the same text: no date, ids of a fixed salt.
"""

import io
import re
from contextlib import contextmanager

from harness.page.html import Html, tag

# Colours that stand for the page's own: a style sheet says what they are, in light and in dark.
INK, MUTED, GRID, SURFACE = "#010203", "#010204", "#010205", "#010206"
SERIES = ("#010210", "#010211", "#010212", "#010213", "#010214", "#010215")
THEMED = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--grid)"}
THEMED |= {SURFACE: "var(--surface)"}
THEMED |= {color: f"var(--series-{i})" for i, color in enumerate(SERIES)}
DASHES = ("-", "--", ":", "-.")  # beside the colours, for who cannot tell them
MARKERS = "osD^vP"
WIDE = (5.4, 3.4)  # inches of 72 pixels
SETTINGS = {
    "svg.fonttype": "none",  # text, not outlines
    "svg.hashsalt": "maskgolf",
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def color(index: int) -> str:
    """Return the colour of a series."""
    return SERIES[index % len(SERIES)]


def dashes(index: int) -> str:
    """Return the line style of a series: the first six are solid."""
    return DASHES[index // len(SERIES) % len(DASHES)]


def marker(index: int) -> str:
    """Return the marker of a series."""
    return MARKERS[index % len(MARKERS)]


class Drawing:
    """A figure that is being drawn: its axes, and its SVG once it is done."""

    def __init__(self, axes) -> None:
        """Keep the axes."""
        self.axes, self.svg = axes, None


@contextmanager
def drawing(name: str, alt: str, size: tuple[float, float] = WIDE):
    """Yield a Drawing whose svg is there behind the block. name: what its ids begin with; alt: what
    it shows, in words.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(SETTINGS):
        image, axes = pyplot.subplots(figsize=size, layout="constrained")
        try:
            drawn = Drawing(axes)
            yield drawn
            written = io.StringIO()
            image.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
        finally:
            pyplot.close(image)
    drawn.svg = inline(written.getvalue(), name, alt)


def inline(written: str, name: str, alt: str) -> Html:
    """Return an SVG file as an element of a page."""
    head, body = re.search(r"<svg\b([^>]*)>(.*)</svg>", written, re.DOTALL).groups()
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style\b.*?</style>", "", body, flags=re.DOTALL)  # of the whole page
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    for stands_in, meant in THEMED.items():
        body = body.replace(stands_in, meant)
    box = re.search(r'viewBox="([^"]*)"', head)[1]
    body = Html(re.sub(r"\s*\n\s*", "\n", body))
    shown = {"class_": "figure", "viewBox": box, "role": "img", "aria_label": alt}
    return tag("svg", body, id=name, **shown)
