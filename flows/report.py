"""What a finished run amounts to, in numbers and in words: read from the stages' outputs, shown everywhere the same."""

import csv
import dataclasses
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.stages.markdown import code, plain
from flows.stages.progress import RANDOM_INIT
from flows.stages.run import Run
from vit.training.ledger import TOTALS

if TYPE_CHECKING:
    from flows.report_sections import Section

# By the name of a stage's picture.
CAPTIONS = {
    "corpus": "Some images of some classes of the corpus, with the number of images in each class",
    "pairs": "Corpus images that were removed, each beside the test image it repeats, most doubtful first",
    "curves": "Training loss and learning rate by step",
    "filters": "Principal components of the patch embedding's filters (paper Fig. 7 left)",
    "positions": "Cosine of each patch's position embedding with all others' (paper Fig. 7 centre)",
    "attention_distance": "How far the heads of each layer look, in pixels (paper Fig. 7 right)",
    "rollout": "Validation images, and what attention carries of them to the output (paper Fig. 6)",
    "scores": "Top-1 of every task, beside the same model from random weights (grey) and chance (black line)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the summary."""

    what: str
    value: str
    note: str = ""


def results(run: Run) -> dict[str, Any]:
    """All numbers of a finished run, ready for JSON."""
    read = {
        stage: json.loads((run.out(stage) / name).read_text())
        for stage, name in (
            ("deduplicate", "report.json"),
            ("pretrain", "metrics.json"),
            ("finetune", "metrics.json"),
            ("evaluate", "scores.json"),
            ("register", "registration.json"),
        )
    }
    return {
        "pipeline": run.pipeline,
        "overrides": list(run.overrides),
        **read,
        "outputs": {stage: str(run.out(stage)) for stage in read},
    }


def rows(run: Run) -> list[Row]:
    """The summary table."""
    numbers = results(run)
    dedup, scores, registered = numbers["deduplicate"], numbers["evaluate"], numbers["register"]
    planted = dedup["planted"]
    found = f"planted found: {planted['found']} of {planted['total']}" if planted else ""
    table = [
        Row(what="images in", value=f"{dedup['images_in']:,}"),
        Row(what="duplicates of test images removed", value=f"{dedup['removed']:,}", note=found),
        _pretraining(numbers["pretrain"]),
        _finetuning(numbers["finetune"], run.config.finetune.resolution),
    ]
    for group, mean in scores["groups"].items():
        random = f"{_percent(mean['top1_random_init'])} from random weights"
        table.append(Row(what=f"{_suite(scores)}, {group}", value=_percent(mean["top1"]), note=random))
    random = f"{_percent(scores['mean_of_tasks_random_init'])} from random weights"
    table.append(
        Row(
            what=f"{_suite(scores)}, mean of {len(scores['tasks'])} tasks",
            value=_percent(scores["mean_of_tasks"]),
            note=random,
        )
    )
    table += [Row(what=name, value=_percent(one["top1"])) for name, one in sorted(scores["benchmarks"].items())]
    table.append(_frozen(scores["frozen_mean_of_tasks"]))
    table += _downstream(scores["downstream"])
    table += _spent(registered["metrics"])
    table.append(Row(what="model version", value=registered["uri"], note=f"alias {registered['alias']}"))
    return table


def _frozen(means: dict[str, float]) -> Row:
    """Few-shot and linear scores of frozen features."""
    prefix = "few_shot_"
    shots = sorted(int(name.removeprefix(prefix)) for name in means if name.startswith(prefix))
    few = [f"{number}: {_percent(means[f'{prefix}{number}'])}" for number in shots]
    note = f"by images of a class {', '.join(few)}" if few else ""
    return Row(what="frozen features, linear, mean", value=_percent(means["linear"]), note=note)


def _downstream(found: dict[str, Any] | None) -> list[Row]:
    """Few-shot scores on the images that the model was fine-tuned on: of ImageNet those of the paper's Fig. 4."""
    if found is None:
        return []
    few = {int(shots): one["top1"] for shots, one in found["few_shot"].items()}
    note = f"by images of a class {', '.join(f'{shots}: {_percent(few[shots])}' for shots in sorted(few))}"
    return [Row(what="few-shot, downstream images", value=_percent(few[max(few)]), note=note)]


def _spent(metrics: dict[str, Any]) -> list[Row]:
    """What both trainings cost, if MLflow knew it when the model was registered."""
    trainings = ("pretrain", "finetune")
    total = {name: sum(metrics.get(f"{stage}/{name}") or 0.0 for stage in trainings) for name in TOTALS}
    if not total["device_hours"]:
        return []
    parts = [f"cost {total['cost']:,.2f}"] if total["cost"] else []
    if total["restarts"]:
        parts.append(f"{total['restarts']:.0f} restarts, {total['redone_seconds']:,.0f} s done again")
    value = f"{total['device_hours']:,.2f} device-hours"
    return [Row(what="pre-training and fine-tuning took", value=value, note=", ".join(parts))]


def _pretraining(metrics: dict[str, Any]) -> Row:
    """What pre-training scored: with labels, or in guessing hidden patches."""
    note = f"{metrics['num_val']:,} validation images"
    if "val/top1" in metrics:
        return Row(what="pre-training, top-1", value=_percent(metrics["val/top1"]), note=note)
    return Row(what="pre-training, loss of hidden patches", value=f"{metrics['val/loss']:.3f}", note=note)


def _finetuning(metrics: dict[str, Any], resolution: int) -> Row:
    """Beside random weights, if those were trained, too."""
    random = metrics.get(f"val/top1{RANDOM_INIT}")
    beside = "" if random is None else f"; {_percent(random)} from random weights on the same budget"
    return Row(what="fine-tuning, top-1", value=_percent(metrics["val/top1"]), note=f"at {resolution} px{beside}")


def task_rows(run: Run) -> list[Row]:
    """Top-1 of every task of the suite."""
    scores = results(run)["evaluate"]
    return [
        Row(
            what=f"{task['group']}/{name}",
            value=_percent(task["top1"]),
            note=f"{_percent(task['top1_random_init'])} from random weights, {_percent(task['chance'])} by chance",
        )
        for name, task in scores["tasks"].items()
    ]


def decision(run: Run) -> str:
    """Why the model did or did not become champion."""
    return str(results(run)["register"]["decision"])


def next_steps(run: Run) -> list[Row]:
    """Where to look now."""
    tracking = os.environ["MLFLOW_TRACKING_URI"]
    directory = _shown(run.out("register").parent, run.root)
    return [
        Row(
            what="use the model",
            value=f"vitflow predict IMAGE --model models:/{run.config.register.model_name}@champion",
        ),
        Row(what="all versions", value="vitflow models"),
        Row(what="pairs that were duplicates", value=f"{_shown(run.out('deduplicate'), run.root)}/report.html"),
        Row(what="scores as a picture", value=f"{_shown(run.out('evaluate'), run.root)}/scores.png"),
        Row(what="all of it as a page", value=_command(run)),
        Row(what="everything else", value=f"{directory}/"),
        Row(what="in the browser", value="make up" if tracking.startswith("sqlite") else tracking),
    ]


def markdown(run: Run) -> str:
    """The summary for Prefect and the model card."""
    lines = [f"## {run.pipeline}", ""]
    if run.overrides:
        lines += [f"with {code(' '.join(run.overrides))}", ""]
    lines += ["| | | |", "|---|---:|---|"]
    lines += [f"| {plain(row.what)} | **{plain(row.value)}** | {plain(row.note)} |" for row in rows(run)]
    lines += ["", plain(decision(run)), "", "### Tasks", "", "| task | top-1 | |", "|---|---:|---|"]
    lines += [f"| {plain(row.what)} | {plain(row.value)} | {plain(row.note)} |" for row in task_rows(run)]
    return "\n".join(lines) + "\n"


def title(run: Run) -> str:
    """The pipeline, and what was changed of it."""
    return " ".join((run.pipeline, *run.overrides))


def told(run: Run) -> "list[Section]":
    """The run in full, to be written as a page or as Markdown, with the pictures of its stages."""
    from flows import report_budget
    from flows.report_sections import sections

    stages = ("prepare", "pretrain", "finetune", "evaluate", "deduplicate")
    pictures = [path for stage in stages for path in sorted(run.out(stage).glob("*.png"))]
    numbers = results(run)
    first, *others = sections(numbers, run.config, rows(run), pictures)
    budget = report_budget.section(numbers, run.config)
    return [first, *([budget] if budget.lines else []), *others]


def everything(run: Run) -> dict[str, Any]:
    """`results`, and what a report adds to them: numbers beside the paper's, what was computed, learning curves."""
    from flows.report_budget import same_budget
    from flows.report_sections import beside_the_paper, work

    numbers = results(run)
    curves = {stage: _curve(run.out(stage) / "metrics.csv") for stage in ("pretrain", "finetune")}
    return numbers | {
        "paper": beside_the_paper(numbers, run.config),
        "same_budget": [dataclasses.asdict(one) for one in same_budget(numbers, run.config)],
        "work": work(run.config, tasks=len(numbers["evaluate"]["tasks"])),
        "curves": curves,
    }


def _curve(file: Path) -> list[dict[str, float]]:
    with file.open(newline="") as rows:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(rows)]


def _command(run: Run) -> str:
    overrides = "".join(f" --set {shlex.quote(override)}" for override in run.overrides)
    return f"vitflow report {run.pipeline}{overrides} --html report.html"


def _suite(scores: dict[str, Any]) -> str:
    return f"{scores['family']}-VTAB" if scores["family"] != "lossless" else "VTAB-1k"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
