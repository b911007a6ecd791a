"""Register the fine-tuned model: one version with scores and lineage in MLflow, champion if it is better."""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.adapters.mlflow_store import check_name
from flows.stages import lineage, output
from flows.stages.markdown import plain
from flows.stages.suite import AS_IS, TRANSFERRED
from vit.models.build import ModelConfig
from vit.models.weights import native
from vit.training.ledger import TOTALS

if TYPE_CHECKING:  # they import mlflow, which takes seconds; every command imports this module for its config
    from flows.adapters.mlflow_gate import Decision
    from flows.adapters.mlflow_registry import Submission, Version

CARD = string.Template("""\
A network of the Vision Transformer paper (arXiv 2010.11929): $network, $classes.

### Scores
Validation top-1: $finetuned after fine-tuning, $pretrained after pre-training.
Transfer to the $family tasks, 1,000 examples each: $mean on average; $random from random weights.

| group | task | data | top-1 | from random weights | chance | test images |
|---|---|---|---|---|---|---|
$rows

### Data
Labelled images, less the $removed that are near-duplicates of test images of the tasks.

### Use
With nothing but `pip install mlflow`: `mlflow.pyfunc.load_model("{uri}").predict(images)`.
Images: PNG or JPEG bytes, uint8 arrays [H, W, 3] or [N, H, W, 3], a list of them, or a table with a column
`image` (base64 text in REST requests). Answer: a row per image with image, label, class_index, score;
`params={"top_k": 5}` gives five rows each. Preprocessing is included.

### Lineage
$lineage
""")

FAMILY = "vtab.family"  # tag
HOW = {TRANSFERRED: "benchmark, fine-tuned to", AS_IS: "benchmark, answered as it is"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegisterConfig:
    """Under which name, and when a version becomes champion."""

    model_name: str  # in the MLflow registry
    metric: str  # that decides, e.g. vtab/mean_of_tasks; larger is better
    min_improvement: float  # over the champion, in units of the metric (a fraction)
    max_drop: float | None  # of a group of tasks below the champion's; null: any, as long as the metric wins

    def __post_init__(self) -> None:
        check_name(self.model_name, "model_name")
        for name, value in (("min_improvement", self.min_improvement), ("max_drop", self.max_drop)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}, but must be a number of at least 0")


def register(config: RegisterConfig, *, dedup: Path, pretrain: Path, model: Path, scores: Path, out: Path) -> Path:
    """Make (or find) the version of this model and these scores, move the alias, write registration.json.

    Metrics, lineage and model go on the MLflow run that the door opened (lineage.RUN_ID), or on a new one. Raises
    ValueError for an unknown metric, IncompleteInput for a damaged model, ServiceDown if MLflow does not answer.
    """
    from flows.adapters import mlflow_gate, mlflow_registry

    inputs = {"dedup": dedup, "pretrain": pretrain, "model": model, "scores": scores}
    with output.writing(out, "register", config, inputs) as work:
        output.verify(model)
        metrics = collect(dedup=dedup, pretrain=pretrain, model=model, scores=scores)
        metrics |= spent(pretrain=pretrain, finetune=model)
        check_metric(config.metric, metrics)
        submission = submit(config, inputs, metrics)
        with _run(config, submission) as run_id:
            version = mlflow_registry.register(model, submission, run_id=run_id)
            gate = mlflow_gate.Gate(
                metric=config.metric,
                min_improvement=config.min_improvement,
                guarded=tuple(f"vtab/{group}" for group in _read(scores / "scores.json")["groups"]),
                max_drop=config.max_drop,
            )
            decision = mlflow_gate.promote(config.model_name, version.version, gate)
        output.write_json(work / "registration.json", describe(config, submission, version, decision))
    return out


def collect(*, dedup: Path, pretrain: Path, model: Path, scores: Path) -> dict[str, float]:
    """All numbers of the pipeline under flat names; a score that is missing (null) is NaN."""
    removal = _read(dedup / "report.json")
    found = _numbers("dedup", removal) | _numbers("dedup/planted", removal.get("planted") or {})
    found |= _numbers("pretrain", _read(pretrain / "metrics.json"))
    found |= _numbers("finetune", _read(model / "metrics.json"))
    report = _read(scores / "scores.json")
    top1 = {f"{task['group']}/{name}": task["top1"] for name, task in report["tasks"].items()}
    top1 |= {name: group["top1"] for name, group in report["groups"].items()}
    top1 |= {name: report[name] for name in ("mean_of_tasks", "mean_of_groups")}
    found |= _numbers("frozen", report["frozen_mean_of_tasks"])
    top1 = {f"vtab/{name}": value for name, value in top1.items()}
    top1 |= {f"benchmark/{name}": one["top1"] for name, one in report["benchmarks"].items()}
    few = (report["downstream"] or {"few_shot": {}})["few_shot"]
    top1 |= {f"downstream/few_shot_{shots}": one["top1"] for shots, one in few.items()}
    found |= {name: math.nan if value is None else float(value) for name, value in top1.items()}
    return dict(sorted(found.items()))


def spent(**trainings: Path) -> dict[str, float]:
    """What the trainings cost, as far as MLflow has their runs: `pretrain/device_hours`, … (vit.training.ledger)."""
    from flows.adapters import mlflow_runs

    found: dict[str, float] = {}
    for name, path in trainings.items():
        record = output.read(path)
        run_id = mlflow_runs.find_run(record["fingerprint"], record["stage"])
        values = {} if run_id is None else mlflow_runs.last_values(run_id)
        found |= {f"{name}/{total}": values[total] for total in TOTALS if total in values}
    return found


def check_metric(name: str, metrics: Mapping[str, float]) -> None:
    """Raise ValueError with the nearest names if there is no such metric."""
    if name in metrics:
        return
    near = difflib.get_close_matches(name, metrics, n=3, cutoff=0.4) or sorted(metrics)
    raise ValueError(f"register.metric is {name!r}, but no stage measures that; nearest are {', '.join(near)}")


def submit(config: RegisterConfig, inputs: Mapping[str, Path], metrics: Mapping[str, float]) -> "Submission":
    """What goes into the registry: scores, lineage, resolved configs and the model card."""
    from flows.adapters.mlflow_registry import EVALUATED_ON, Submission

    fingerprint = subject(inputs["model"], inputs["scores"])
    records = {name: output.read(path) for name, path in inputs.items()}
    tags = {key: value for key, value in lineage.tags().items() if not key.startswith("mlflow.")}
    tags |= {f"input.{record['stage']}": output.digest(inputs[name]) for name, record in records.items()}
    scores = _read(inputs["scores"] / "scores.json")
    tags[EVALUATED_ON] = suite(scores)
    tags |= families(scores)
    configs = {record["stage"]: record["config"] for record in records.values()}
    return Submission(
        name=config.model_name,
        fingerprint=fingerprint,
        metrics=metrics,
        tags=dict(sorted(tags.items())),
        card=card(inputs, metrics, tags),
        configs={**configs, "register": dataclasses.asdict(config)},
    )


def subject(model: Path, scores: Path) -> str:
    """Twelve hex digits for a model and its scores. The gate is no part: moving it makes no second version."""
    digests = f"model {output.digest(model)}\nscores {output.digest(scores)}"
    return hashlib.sha256(digests.encode()).hexdigest()[:12]


def families(scores: Mapping[str, Any]) -> dict[str, str]:
    """Which data the suite and each of its tasks were scored on: figures of different families do not compare."""
    return {FAMILY: scores["family"]} | {f"{FAMILY}.{name}": task["family"] for name, task in scores["tasks"].items()}


def suite(scores: Mapping[str, Any]) -> str:
    """Twelve hex digits for what was scored on (families, tasks, groups, sizes): equal means comparable."""
    tasks = {
        name: [task[key] for key in ("family", "group", "num_test", "chance")] for name, task in scores["tasks"].items()
    }
    canonical = json.dumps([scores["family"], tasks], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def describe(
    config: RegisterConfig, submission: "Submission", version: "Version", decision: "Decision"
) -> dict[str, Any]:
    """The content of registration.json."""
    before = decision.champion
    previous = None if before is None else _entry(before.version, before.scores.get(config.metric, math.nan))
    return {
        "name": version.name,
        "version": version.version,
        "uri": version.uri,
        "fingerprint": submission.fingerprint,
        "alias": decision.alias,
        "decision": decision.sentence,
        "metric": config.metric,
        "value": _finite(decision.value),
        "previous_champion": previous,
        "metrics": {name: _finite(value) for name, value in submission.metrics.items()},
        "tags": dict(submission.tags),
        "run_id": version.run_id,
    }


def card(inputs: Mapping[str, Path], metrics: Mapping[str, float], tags: Mapping[str, str]) -> str:
    """The model card, Markdown. `{uri}` stands for the version's own address."""
    model, scores = native.read(inputs["model"] / output.MODEL), _read(inputs["scores"] / "scores.json")
    classes = model.class_names
    rows = [
        f"| {plain(task['group'])} | {plain(name)} | {plain(task['family'])} | {_percent(task['top1'])} "
        f"| {_percent(task['top1_random_init'])} | {_percent(task['chance'])} | {task['num_test']} |"
        for name, task in sorted(scores["tasks"].items(), key=lambda item: (item[1]["group"], item[0]))
    ]
    rows += [
        f"| {HOW[one['group']]} | {plain(name)} | {plain(one['family'])} | {_percent(one['top1'])} | – "
        f"| {_percent(one['chance'])} | {one['num_test']} |"
        for name, one in sorted(scores["benchmarks"].items())
    ]
    return CARD.substitute(
        network=network(model.config),
        classes=f"{len(classes)} classes: {_listing(classes)}",
        finetuned=_percent(metrics.get("finetune/val/top1")),
        pretrained=_percent(metrics.get("pretrain/val/top1")),
        family=scores["family"],
        mean=_percent(scores["mean_of_tasks"]),
        random=_percent(scores["mean_of_tasks_random_init"]),
        rows="\n".join(rows),
        removed=f"{metrics['dedup/removed']:.0f}",
        lineage="\n".join(
            f"- `{key}`: {plain(value)}" for key, value in sorted(tags.items()) if key != "config.resolved"
        ),
    )


def network(config: ModelConfig) -> str:
    """What a network is, in a line."""
    if config.family == "resnet":
        units = ", ".join(map(str, config.layers))
        return f"ResNet {config.flavour} of {units} units, {config.width_factor} times as wide, {config.resolution} px"
    stem = "" if config.stem is None else f" after a ResNet of {', '.join(map(str, config.stem.layers))} units"
    return f"{config.depth} blocks of width {config.width}{stem}, patch {config.patch_pixels}, {config.resolution} px"


@contextlib.contextmanager
def _run(config: RegisterConfig, submission: "Submission") -> Iterator[str]:
    """The id of the run to log into."""
    from flows.adapters import mlflow_runs

    run_id = lineage.tags().get(lineage.RUN_ID)
    if run_id is not None:
        yield run_id
        return
    tags = {"vitflow.stage": "register", "vitflow.fingerprint": submission.fingerprint}
    with mlflow_runs.stage_run(config.model_name, "register", tags, dataclasses.asdict(config)) as run:
        yield run.run_id


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: value for name, value in values.items() if type(value) in (int, float)}
    return {f"{prefix}/{name}": float(value) for name, value in numbers.items()}


def _entry(version: str, value: float) -> dict[str, Any]:
    return {"version": version, "value": _finite(value)}


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def _listing(names: Sequence[str]) -> str:
    return ", ".join(map(plain, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
