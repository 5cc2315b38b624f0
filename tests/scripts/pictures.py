"""Photograph the page of a run in a headless Chromium, for the README.

    python -m tests.scripts.pictures runs/demo assets

Writes report-desktop.png and report-phone.png: the beginning of the page on a desk, in light, and on
a phone, in dark.
"""

import sys
from pathlib import Path

from harness.page import write
from tests.support import browser

SHOTS = {"desktop": (browser.DESKTOP, False, 1500), "phone": (browser.PHONE, True, 1500)}


def main(run: Path, folder: Path) -> None:
    """Write the page of a run beside it, and its pictures to a folder."""
    if browser.program() is None:
        sys.exit(f"pictures: expected a browser, found none of {', '.join(browser.NAMES)}")
    page = run / "report.html"
    if not page.exists():
        write.write((run,), page)
    with browser.browser() as started:
        for name, (width, dark, height) in SHOTS.items():
            started.show(page, width, dark)
            path = folder / f"report-{name}.png"
            started.picture(path, height)
            print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
