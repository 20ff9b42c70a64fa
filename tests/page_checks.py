"""What every page of the report must stand in a real browser."""

from pathlib import Path

import pytest
from chromium import Browser, find

SHOTS = Path(__file__).parents[1] / "scratch" / "screenshots"
PHONE, DESK = 390, 1440
SCRIPT = Path(__file__).with_suffix(".js").read_text()
OPEN = "document.querySelectorAll('details').forEach(part => { part.open = true; })"


needs_browser = pytest.mark.skipif(find() is None, reason="no Chromium; name one in $CHROMIUM")
widths = pytest.mark.parametrize("width", [PHONE, DESK])


def check_alone(page: Path, width: int, name: str, profile: Path) -> None:
    """`check` in a browser of its own, whose profile is a new folder."""
    browser = Browser(find(), profile)
    try:
        check(browser, page, width, name)
    finally:
        browser.close()


def check(browser: Browser, page: Path, width: int, name: str) -> None:
    """Open a page: no message in the console, no overflow, readable, every picture there; leave a screenshot."""
    browser.open(page, width)
    browser.wait("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    browser.screenshot(SHOTS / f"{name}_{width}.png")
    for state in ("as opened", "with all details open"):
        if state != "as opened":
            browser.run(OPEN)
        seen = browser.run(SCRIPT)
        assert seen["across"] == width, f"{state}: {seen['across']} pixels across, the window has {width}"
        assert seen["seen"] > 100, f"{state}: only {seen['seen']} texts"
        for kind in ("wide", "found", "nameless", "small"):
            assert seen[kind] == [], f"{state}, {kind}: {seen[kind][:5]}"
    assert browser.problems == [], browser.problems
