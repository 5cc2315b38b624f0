"""The documentation is built from docs/ and the docstrings, without a warning or an address that a
page would load from.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import maskgolf

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return out


def test_each_function_has_its_docstring_and_its_example(site):
    page = (site / "api.html").read_text()
    text = re.sub(r"<[^>]*>", "", page)
    for name in maskgolf.__all__:
        assert f'id="harness.api.{name}"' in page and f"maskgolf.{name}(" in text


def test_every_module_of_the_halves_is_there(site):
    for half, page in (("reference", "reference.html"), ("fast", "fast.html")):
        text = (site / page).read_text()
        for path in (ROOT / half).glob("[!_]*.py"):
            assert f'id="{half}.{path.stem}"' in text


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', page.read_text())
