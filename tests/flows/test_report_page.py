"""The report of a finished run: whole, offline, beside the paper, and safe against what names contain."""

import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from flows import report_sections
from flows.report import Row
from flows.report_page import page
from flows.report_sections import Section, markdown, sections
from flows.stages.config import Pipeline, load
from flows.stages.markdown import code, plain
from tests.checkout import ROOT

HOSTILE = "<img src=x onerror=alert(1)>'\"|"
SHOTS = ROOT / "test-results" / "report"
CHROMIUM = shutil.which("chromium")


def task(group: str, top1: float, clean: float | None) -> dict[str, Any]:
    few = {shots: {"top1": top1 / 2, "std": 0.01} for shots in ("10", "5")}
    return {
        **{"group": group, "family": "lossless", "top1": top1, "top1_clean": clean, "num_clean": 10, "num_test": 1234},
        **{"top1_random_init": 0.3, "chance": 0.1, "frozen": {"few_shot": few, "linear": 0.66, "nearest": 0.55}},
    }


BENCHMARKS = {
    "cifar10": task("transferred", 0.9875, 0.987) | {"top1_std": 0.002},
    HOSTILE: task("as_is", 0.5, None) | {"top1_std": 0.0},
}

FEW = {"downstream": {"few_shot": {"5": {"top1": 0.6421, "std": 0.001}}, "num_test": 50_000}}


def numbers(pipeline: str, overrides: list[str]) -> dict[str, Any]:
    """What report.results gives for a run of that pipeline."""
    tags = {"git.commit": "abc123", "config.sha256": "f" * 64, "config.resolved": '{"b":1,"a":"<script>"}'}
    metrics = {"finetune/val/top1": 0.84, "pretrain/val/top1": 0.5, "vtab/mean_of_tasks": 0.7, "vtab/natural": 0.91}
    metrics |= {"pretrain/device_hours": 1234.5, "benchmark/cifar10": 0.9875, "downstream/few_shot_5": 0.6421}
    tasks = {HOSTILE: task("structured", 0.5, None), "svhn": task("natural", 0.91, 0.9)}
    groups = {name: {"top1": 0.9, "top1_random_init": 0.3} for name in ("natural", "structured")}
    return {
        "pipeline": pipeline,
        "overrides": overrides,
        "evaluate": {"tasks": tasks, "family": "lossless", "groups": groups, "benchmarks": BENCHMARKS} | FEW,
        "deduplicate": {"by_benchmark": {HOSTILE: {"test_images": 10, "with_duplicate": 2, "pairs": 3}}},
        "register": {
            **{"uri": "models:/vit-mini/1", "alias": "champion", "decision": HOSTILE, "tags": tags},
            "metrics": metrics,
        },
    }


@pytest.fixture(scope="module")
def config() -> Pipeline:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITFLOW_ROOT", str(ROOT))
        return load("vit-l16-i21k")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, config: Pipeline) -> list[Section]:
    home = tmp_path_factory.mktemp("report")
    for path in (home / "evaluate" / "scores.png", home / "pretrain@0123456789ab" / "curves.png"):
        path.parent.mkdir()
        Image.fromarray(np.zeros((300, 840, 3), np.uint8)).save(path)
    summary = [Row(what="images in", value="20,000", note=HOSTILE)]
    run = numbers("vit-l16-i21k", [f"register.model_name={HOSTILE}"])
    return sections(run, config, summary, sorted(home.rglob("*.png")))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, told: list[Section]) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(f"vit-l16-i21k {HOSTILE}", told), encoding="utf-8")
    return path


def test_everything_is_on_the_page_and_nothing_is_loaded(written: Path) -> None:
    text = written.read_text()
    assert len(text) < 5_000_000
    told = ("models:/vit-mini/1", "91.0", "none left", "45.5 ± 1.0", "evaluate: Top-1 of every task", "abc123")
    for words in (*told, "pretrain: Training loss", "1,234.50", "paper Fig. 2", "paper Fig. 4"):
        assert words in text, words
    assert text.index("5 a class") < text.index("10 a class")
    assert "git checkout abc123\nmake setup\n" in text and "\nvitflow run vit-l16-i21k --set &#x27;register" in text
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r"src='([^']*)", text))
    assert not re.search(r"https?://|<script|<link", text)


def test_names_are_text(written: Path) -> None:
    text = written.read_text()
    assert HOSTILE not in text and "<script>" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;&#x27;&quot;|" in text


def test_markdown_has_the_same_tables(told: list[Section]) -> None:
    text = markdown(f"vit-l16-i21k {HOSTILE}", told)
    assert "<img" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL) and "\\|" in text
    for section in told:
        for line in section.lines:
            assert text.count(plain(line[0])) >= 1
    rows = [line for line in text.splitlines() if line.startswith("| ImageNet |")]
    assert rows == [
        "| ImageNet | 84.00 | 85.15 | -1.15 | Table 5 |",
        "| ImageNet | 84.00 | 85.30 ± 0.02 | -1.30 | Table 2 |",
    ]
    assert "| CIFAR-10 | 98.75 | 99.15 ± 0.03 | -0.40 | Table 2 |" in text
    assert "| CIFAR-100 | – | 93.25 ± 0.05 | – | Table 2 |" in text
    assert "| cifar10 | fine-tuned to it | 98.8 ± 0.2 | 98.7 | 1,234 |" in text
    assert "| as the model answers | 50.0 ± 0.0 | none left | 1,234 |" in text
    assert "| downstream images | 64.2 | – |" in text, "of shots that were not probed a dash"


def test_names_are_text_in_markdown_too() -> None:
    name = "<img src=x> [click](javascript:alert(1)) ![x](http:y) `code` a|b\n# title"
    shown = MarkdownIt("commonmark").enable("table").render(f"| a |\n|---|\n| {plain(name)} |\n")
    assert not re.search(r"<(img|a|code|h1)\b", shown) and shown.count("<td>") == 1
    assert html.unescape(re.sub(r"<[^>]*>", "", shown)).split("a\n\n", 1)[-1].strip() == name.replace("\n", " ")


@pytest.mark.parametrize("text", ["a=b c_d", "`x` ![](y)", "``", "<b>`", "[a](b)\n# c"])
def test_overrides_stay_code(text: str) -> None:
    """One span of code, with the text as it is."""
    shown = MarkdownIt("commonmark").render(f"with {code(text)}, then")
    assert re.fullmatch(r"<p>with <code>[^<]*</code>, then</p>\n", shown), shown
    assert html.unescape(shown).count(text.replace("\n", " ")) == 1


def test_the_paper_is_beside_what_measures_the_same(config: Pipeline) -> None:
    here = {(one["what"], one["source"]): one["here"] for one in beside("vit-l16-i21k", config)}
    assert here["upstream validation", "issue 62"] == 50.0
    assert here["CIFAR-10", "Table 5"] == 98.75
    assert here["CIFAR-100", "Table 5"] is None  # the pipeline does not measure it
    assert here["VTAB-1k", "Table 2"] == 70.0 and here["VTAB-1k, natural", "Table 9, mean"] == 91.0
    (few,) = [one for one in beside("vit-b16-jft-position-none", config) if one["source"] == "Table 8"]
    assert (few["what"], few["here"]) == ("ImageNet, 5-shot", 64.21)
    assert beside("mini", config) == []
    run = numbers("vit-l16-i21k", [])
    run["register"]["metrics"]["finetune/val/top1_mean"] = 0.85  # of three seeds
    assert {one["what"]: one["here"] for one in report_sections.beside_the_paper(run, config)}["ImageNet"] == 85.0


def beside(pipeline: str, config: Pipeline, **changes: Any) -> list[dict[str, Any]]:
    return report_sections.beside_the_paper(numbers(pipeline, []) | changes, config)


def test_other_data_are_not_compared(monkeypatch: pytest.MonkeyPatch, config: Pipeline) -> None:
    monkeypatch.setenv("VITFLOW_ROOT", str(ROOT))
    scores = numbers("vit-l16-i21k", [])["evaluate"] | {"family": "mini"}
    mini = {one["what"]: one["here"] for one in beside("vit-l16-i21k", config, evaluate=scores)}
    assert mini["VTAB-1k"] is None and mini["ImageNet"] == 84.0
    own = load("vit-l16-i21k", ["prepare.downstream.source=folder"])
    assert {one["what"]: one["here"] for one in beside("vit-l16-i21k", own)}["ImageNet"] is None
    jft = {one["what"]: one["here"] for one in beside("vit-b16-jft", load("vit-b16-jft"))}
    assert jft["pre-training, exaFLOPs"] == pytest.approx(224, rel=0.01) and jft["ImageNet"] == 84.0


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
    assert browser_page.locator("img").count() == 4 and browser_page.eval_on_selector_all("img", broken) == 0
    browser_page.get_by_text("Every number of the configuration").click()
    assert browser_page.get_by_text('"a": "<script>"').is_visible()
