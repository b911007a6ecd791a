"""The page of a finished run: whole, offline, and safe against what names contain."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from flows.report import Row
from flows.report_page import page
from tests.checkout import ROOT

HOSTILE = "<img src=x onerror=alert(1)>'\""
SHOTS = ROOT / "test-results" / "report"
CHROMIUM = shutil.which("chromium")


def task(group: str, top1: float, clean: float | None) -> dict[str, Any]:
    few = {shots: {"top1": top1 / 2, "std": 0.01} for shots in ("10", "5")}
    return {
        **{"group": group, "family": "mini", "top1": top1, "top1_clean": clean, "num_clean": 10, "num_test": 1234},
        **{"top1_random_init": 0.3, "chance": 0.1, "frozen": {"few_shot": few, "linear": 0.66, "nearest": 0.55}},
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("report")
    pictures = [home / "evaluate" / "scores.png", home / "pretrain@0123456789ab" / f"{HOSTILE.replace('/', '')}.png"]
    for path in pictures:
        path.parent.mkdir()
        Image.fromarray(np.zeros((300, 840, 3), np.uint8)).save(path)
    tags = {"git.commit": "abc123", "config.sha256": "f" * 64, "config.resolved": '{"b":1,"a":"<script>"}'}
    numbers = {
        "pipeline": "mini",
        "overrides": [f"register.model_name={HOSTILE}"],
        "evaluate": {"tasks": {HOSTILE: task("structured", 0.5, None), "mini_digits": task("natural", 0.91, 0.9)}},
        "deduplicate": {"by_benchmark": {HOSTILE: {"test_images": 10, "with_duplicate": 2, "pairs": 3}}},
        "register": {"uri": "models:/vit-mini/1", "alias": "champion", "decision": HOSTILE, "tags": tags},
    }
    summary = [Row(what="images in", value="20,000", note=HOSTILE)]
    path = home / "report.html"
    path.write_text(page(numbers, summary, {"scores": "Top-1 of every task"}, pictures), encoding="utf-8")
    return path


def test_everything_is_on_the_page_and_nothing_is_loaded(written: Path) -> None:
    text = written.read_text()
    for told in ("models:/vit-mini/1", "91.0", "none left", "45.5 ± 1.0", "evaluate: Top-1 of every task", "abc123"):
        assert told in text, told
    assert text.index("5 a class") < text.index("10 a class")
    assert "git checkout abc123\nvitflow run mini --set register.model_name=" in text
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r"src='([^']*)", text))
    assert not re.search(r"https?://|<script|<link", text)


def test_names_are_text(written: Path) -> None:
    text = written.read_text()
    assert HOSTILE not in text and "<script>" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;&#x27;&quot;" in text


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser.new_context(offline=True).new_page()
        browser.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (see .ci/run)")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_offline_and_fits(browser_page: Page, written: Path, width: int) -> None:
    said: list[str] = []
    browser_page.on("pageerror", lambda error: said.append(str(error)))
    browser_page.on("dialog", lambda dialog: said.append(dialog.message))
    browser_page.set_viewport_size({"width": width, "height": 900})
    browser_page.goto(written.as_uri())
    SHOTS.mkdir(parents=True, exist_ok=True)
    browser_page.screenshot(path=SHOTS / f"{width}.png", full_page=True)
    assert said == []
    assert browser_page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "images => images.filter(image => !image.complete || image.naturalWidth < 8).length"
    assert browser_page.locator("img").count() == 2 and browser_page.eval_on_selector_all("img", broken) == 0
