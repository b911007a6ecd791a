"""report.html in Chromium, from the disk and without a network, as wide as a desktop and as a phone.

Screenshots go to test-results/dedup/, to be looked at.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.checkout import ROOT
from tests.dedup.sides import bring, save, tiles
from tests.dedup.test_folders import run
from tests.dedup.test_sources import HOSTILE, odd_files

SHOTS = ROOT / "test-results" / "dedup"
CHROMIUM = shutil.which("chromium")
WIDTHS = (1280, 390)  # CSS pixels

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (see .ci/run)")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a page may show: pairs, odd files, hostile names, a template, flat images, a veto."""
    home = tmp_path_factory.mktemp("page")
    bring(home)
    odd_files(home / "train" / "odd")
    save(tiles("gravel", 4)[1], home / "train" / HOSTILE)
    for number in range(35):
        image = tiles("camera", 4)[2]
        image.putpixel((number, 5), (255, 0, 0))
        save(image, home / "scans" / f"a name as long as they are in archives of scans, number {number:02d}.png")
    save(Image.new("RGB", (50, 50), "red"), home / "scans" / "flat.png")
    shutil.copy(home / "pets" / "chelsea" / "chelsea 1.jpg", home / "pets" / "again.jpg")
    veto = home / "veto.csv"
    veto.write_text("test,train,who,why\ncoins/coins 1.jpg,copies/dark.JPEG,me,other coins\n")
    run(home, test=tuple(str(home / name) for name in ("pets", "cifar10", "scans")), veto=veto)
    return home / "out" / "report.html"


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    shutil.rmtree(SHOTS, ignore_errors=True)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        context = browser.new_context(offline=True)
        yield context.new_page()
        browser.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_opens_offline_and_fits(browser_page: Page, report: Path, width: int) -> None:
    requests: list[str] = []
    errors: list[str] = []
    browser_page.on("request", lambda request: requests.append(request.url))
    browser_page.on("pageerror", lambda error: errors.append(str(error)))
    browser_page.on("dialog", lambda dialog: errors.append(dialog.message))
    browser_page.set_viewport_size({"width": width, "height": 900})
    browser_page.goto(report.as_uri())
    SHOTS.mkdir(parents=True, exist_ok=True)
    browser_page.screenshot(path=SHOTS / f"{width}.png", full_page=True)
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()] and errors == []
    assert browser_page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "images => images.filter(image => !image.complete || image.naturalWidth < 8).length"
    assert browser_page.eval_on_selector_all("img", broken) == 0
    assert browser_page.locator("figure").count() >= 6


def test_filters_and_lines_for_the_veto_file(browser_page: Page, report: Path) -> None:
    browser_page.set_viewport_size({"width": 1280, "height": 900})
    browser_page.goto(report.as_uri())
    total = browser_page.locator("figure").count()
    browser_page.select_option("#benchmark", "cifar10")
    shown = browser_page.locator("figure:visible")
    assert 0 < shown.count() < total
    assert f"{shown.count()} of {total} pairs shown" in browser_page.locator("#count").inner_text()
    browser_page.select_option("#tier", "exact-bytes")
    assert shown.count() == 1
    browser_page.select_option("#benchmark", "pets")
    shown.first.get_by_role("checkbox").check()
    lines = browser_page.locator("textarea").input_value().splitlines()
    assert lines[0] == "test,train,benchmark,corpus,verdict"
    assert lines[1] == '"brick/brick 1.jpg","copies/exact.jpg","pets","train",different'
