"""Several finished runs side by side, read from what register left."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

from flows import report_compare
from flows.cli import app
from flows.report_compare import Outcome, outcome
from flows.stages import output
from flows.stages.config import ConfigError
from flows.stages.register import RegisterConfig
from tests.checkout import ROOT, SMOKE

CHROMIUM = shutil.which("chromium")
CONFIG = RegisterConfig(model_name="vit-smoke", metric="vtab/mean_of_tasks", min_improvement=0.0, max_drop=None)
MODEL = {
    **{"family": "vit", "resolution": 32, "patch_size": 8, "stem": None, "width": 32, "depth": 2, "num_heads": 2},
    **{"mlp_dim": 64, "pooling": "tok", "representation": True, "position": "learned", "position_at": "stem"},
    **{"gelu": "tanh", "layer_norm_eps": 1e-6, "dropout": 0.0},
}


def finished(out: Path, *, steps: int, images: int, top1: float, overrides: str = "", suite: str = "one") -> Path:
    """What register leaves of a run, as far as it is compared."""
    resolved = json.dumps({"pretrain": {"model": MODEL, "train": {"steps": steps, "batch_size": 32}}})
    tags = {"vitflow.pipeline": "smoke", "vitflow.overrides": overrides, "git.commit": "0123456789abcdef"}
    tags |= {"config.resolved": resolved, "vitflow.evaluated_on": suite}
    metrics: dict[str, Any] = {"finetune/val/top1": top1, "vtab/mean_of_tasks": top1 / 2, "vtab/natural": None}
    metrics |= {"pretrain/num_train": images, "frozen/few_shot_5": 0.2}
    with output.writing(out, "register", CONFIG, {}) as work:
        content = {"uri": f"models:/vit-smoke/{steps}", "tags": tags, "metrics": metrics}
        output.write_json(work / "registration.json", content)
    return out


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump({"pipelines": yaml.safe_load(SMOKE.read_text())}))
    monkeypatch.setenv("VITFLOW_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    finished(tmp_path / "runs/smoke/register", steps=10, images=500, top1=0.5)
    finished(
        tmp_path / "runs/smoke/register@abc", steps=40, images=500, top1=0.625, overrides="pretrain.train.steps=40"
    )
    return tmp_path


def cells(runs: list[Outcome]) -> dict[str, tuple[str, ...]]:
    return {line[0]: line[1:] for line in report_compare.sections(runs)[0].lines}


def test_a_column_for_each_run(home: Path) -> None:
    runs = [outcome(what, home) for what in ("smoke", "runs/smoke/register@abc")]
    assert [run.name for run in runs] == ["smoke", "smoke pretrain.train.steps=40"]
    table = cells(runs)
    assert table["fine-tuning, top-1"] == ("50.0", "62.5") and table["model version"][1] == "models:/vit-smoke/40"
    assert table["device-hours"] == ("–", "–") and "natural tasks" not in table
    assert runs[1].exaflops == pytest.approx(4 * runs[0].exaflops)
    assert runs[0].images == 500 and runs[0].commit == "0123456789"
    compute, size = report_compare.sections(runs)[1:]
    assert "Fig. 5" in compute.pictures[0].caption and "Figs. 3 and 4" in size.pictures[0].caption


def test_other_tasks_do_not_compare(home: Path) -> None:
    finished(home / "other", steps=10, images=500, top1=0.5, suite="two")
    note = report_compare.sections([outcome("smoke", home), outcome("other", home)])[0].note
    assert note.endswith("judged by different tasks or data: scores of tasks do not compare.")


def test_what_is_no_run_is_a_sentence(home: Path) -> None:
    with pytest.raises(ConfigError, match="there is no finished run 'smok': give a pipeline"):
        outcome("smok", home)


def test_the_command_writes_page_markdown_and_json(home: Path) -> None:
    command = ["report", "smoke", "runs/smoke/register@abc"]
    done = CliRunner().invoke(app, [*command, "--html", "both.html", "--markdown", "both.md"])
    assert done.exit_code == 0 and done.output.split() == ["both.html", "both.md"]
    text = (home / "both.html").read_text()
    assert text.count("<img src='data:image/png;base64,") == 2 and "B: smoke pretrain.train.steps=40" in text
    assert "| fine-tuning, top-1 | 50.0 | 62.5 |" in (home / "both.md").read_text()
    numbers = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)
    assert [one["images"] for one in numbers] == [500, 500]
    assert "62.5" in CliRunner().invoke(app, command).output
    refused = CliRunner().invoke(app, [*command, "--set", "a.b=c"])
    assert refused.exit_code != 0 and "--set belongs to one run" in str(refused.exception)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (see .ci/run)")
def test_the_page_fits_desktop_and_phone(home: Path) -> None:
    CliRunner().invoke(app, ["report", "smoke", "runs/smoke/register@abc", "--html", "both.html"])
    shots = ROOT / "test-results" / "report"
    shots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for width in (1280, 390):
            page = browser.new_context(offline=True, viewport={"width": width, "height": 900}).new_page()
            page.goto((home / "both.html").as_uri())
            page.screenshot(path=shots / f"compare-{width}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("img").count() == 2
        browser.close()
