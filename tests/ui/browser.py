"""Chromium for tests: one page, patient with busy cores, and screenshots to be looked at."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.checkout import ROOT

CHROMIUM = shutil.which("chromium")
PAGE_MILLISECONDS = 60_000  # two busy cores
DESKTOP, PHONE = {"width": 1400, "height": 1300}, {"width": 390, "height": 844}  # CSS pixels
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (see .ci/run)")


@contextlib.contextmanager
def opened_page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport=DESKTOP)
        page.set_default_timeout(PAGE_MILLISECONDS)
        expect.set_options(timeout=PAGE_MILLISECONDS)
        yield page
        browser.close()


def empty(shots: str) -> Path:
    """A folder below test-results for this run's screenshots."""
    folder = ROOT / "test-results" / shots
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def shoot(page: Page, file: Path) -> None:
    page.wait_for_timeout(1500)  # transitions, and pictures that come after their frame
    page.screenshot(path=file)
