"""The page in a real browser, as a screen on a desk and a phone show it: no error, no figure
missing, nothing beside the page.
"""

import json
import shutil

import pytest

from harness import parity, runs
from harness.page import write
from tests.support import browser

pytestmark = pytest.mark.skipif(
    browser.program() is None,
    reason=f"no browser: none of {', '.join(browser.NAMES)} is installed (apt-get install chromium)",
)
SCREENS = [(width, dark) for width in (browser.DESKTOP, browser.PHONE) for dark in (False, True)]
FIGURES = {
    *("scores", "positions", "train-loss", "lr-multiplier", "grad-norm", "tokens-per-second"),
    *("reveal", "sizes", "grid"),
}
PROBE = """(() => {
  const root = document.documentElement, box = x => x.getBoundingClientRect();
  const hidden = x => x.closest('.scroll, details:not([open])');
  const outside = [...document.querySelectorAll('body *')].filter(
    x => !hidden(x) && (box(x).right > root.clientWidth + 0.5 || box(x).left < -0.5));
  const texts = [...document.querySelectorAll('svg.figure text')];
  return JSON.stringify({
    width: root.clientWidth, scroll: root.scrollWidth,
    outside: outside.map(x => x.outerHTML.slice(0, 80)),
    figures: [...document.querySelectorAll('svg.figure')].map(
      x => [x.id, box(x).width, box(x).height, x.querySelectorAll('path').length]),
    texts: texts.map(x => [x.textContent, parseFloat(getComputedStyle(x).fontSize)
      * box(x.ownerSVGElement).width / x.ownerSVGElement.viewBox.baseVal.width]),
    cut: texts.filter(x => {
      const inner = box(x), outer = box(x.ownerSVGElement);
      return inner.left < outer.left - 1 || inner.right > outer.right + 1
        || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
    }).map(x => x.textContent),
    ink: getComputedStyle(document.body).color, page: getComputedStyle(document.body).backgroundColor,
    tick: getComputedStyle(texts[0]).fill,
    series: getComputedStyle(document.querySelector('#text1-train-loss path[style*="series-0"]')).stroke,
  });
})()"""


@pytest.fixture(scope="module")
def page(seeds, run_directory, tmp_path_factory):
    """Return the page of two seeds and of a run on another text, with a parity table."""
    folder = tmp_path_factory.mktemp("shown")
    other = folder / "another-text"
    shutil.copytree(run_directory, other)
    known = json.loads((other / "summary.json").read_text())
    for score in known["scores"]:
        del score["validation_sha256"]
    (other / "summary.json").write_text(json.dumps(known))
    runs._write_parity(other, parity.parity(("ema", "philox"), "cpu", ("float32",)))
    return write.write((*seeds, other), folder / "report.html")


@pytest.fixture(scope="module")
def chromium():
    """Return a browser."""
    with browser.browser() as started:
        yield started


@pytest.fixture(scope="module")
def seen(page, chromium) -> dict[tuple[int, bool], dict]:
    """Return what the page is on every screen, and what the browser complains of."""
    known = {}
    for width, dark in SCREENS:
        chromium.complaints.clear()
        chromium.show(page, width, dark)
        known[width, dark] = json.loads(chromium.evaluate(PROBE))
        known[width, dark]["complaints"] = list(chromium.complaints)
    return known


@pytest.mark.parametrize("screen", SCREENS, ids=str)
def test_the_browser_has_nothing_to_complain_of(screen, seen):
    """No error, no warning, no request but for the page."""
    assert seen[screen]["complaints"] == []
    assert seen[screen]["width"] == screen[0]


@pytest.mark.parametrize("screen", SCREENS, ids=str)
def test_every_figure_has_a_size_and_lines(screen, seen):
    figures = {name: rest for name, *rest in seen[screen]["figures"]}
    assert {*figures} == {f"text{i}-{name}" for i in (1, 2) for name in FIGURES}
    for name, (width, height, paths) in figures.items():
        assert width > 280 and height > 100 and paths > 2, name


@pytest.mark.parametrize("screen", SCREENS, ids=str)
def test_nothing_lies_beside_the_page(screen, seen):
    """Tables scroll in their own boxes; no text of a figure is cut at its border."""
    assert seen[screen]["scroll"] == seen[screen]["width"] and seen[screen]["outside"] == []
    assert seen[screen]["cut"] == []


@pytest.mark.parametrize("screen", SCREENS, ids=str)
def test_figures_can_be_read(screen, seen):
    """Their letters are 8 pixels high or more."""
    small = {text: size for text, size in seen[screen]["texts"] if size < 8}
    assert small == {}


@pytest.mark.parametrize("width", [browser.DESKTOP, browser.PHONE])
def test_the_page_and_its_figures_are_dark_where_asked(width, seen):
    light, dark = seen[width, False], seen[width, True]
    for name in ("ink", "page", "tick", "series"):
        assert light[name] != dark[name], name
    assert light["ink"] == light["tick"] and dark["ink"] == dark["tick"]


def test_the_probe_sees_what_is_wrong(page, chromium, tmp_path):
    """An error, a request, a box beside the page, a figure without a size."""
    broken = page.read_text().replace(
        "<main>",
        '<main><div style="width:2000px">x</div><script>nonsense()</script>'
        '<img src="http://127.0.0.1:9/x.png">',
    )
    broken = broken.replace(
        "svg.figure{", "svg.figure:first-of-type{height:0!important}svg.figure{"
    )
    (tmp_path / "broken.html").write_text(broken)
    chromium.complaints.clear()
    chromium.show(tmp_path / "broken.html", browser.PHONE)
    said, found = str(chromium.complaints), json.loads(chromium.evaluate(PROBE))
    assert "nonsense is not defined" in said and "127.0.0.1:9" in said
    assert found["scroll"] > found["width"] and any("2000px" in x for x in found["outside"])
    assert 0 in [height for _, _, height, _ in found["figures"]]
    chromium.complaints.clear()
