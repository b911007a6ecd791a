"""Several finished runs side by side: their numbers, performance against compute (Fig. 5) and data size (Figs. 3, 4).

Everything is read from what register left, so runs of older code and with overrides compare, too.
"""

import dataclasses
import itertools
import json
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flows.report_sections import DASH, Section, drawn
from flows.stages import output
from flows.stages.config import ConfigError, names
from vit.models.build import config_from_dict
from vit.models.counting import exaflops

# Name of a metric, and what it is called; fractions unless a number of images.
SCORES = {
    "pretrain/val/top1": "pre-training, top-1",
    "finetune/val/top1": "fine-tuning, top-1",
    "finetune/val/top1_random_init": "from random weights on the same budget, top-1",
    "vtab/natural": "natural tasks",
    "vtab/specialized": "specialized tasks",
    "vtab/structured": "structured tasks",
    "vtab/mean_of_tasks": "mean of tasks",
    "frozen/few_shot_1": "1 image a class, frozen",
    "frozen/few_shot_5": "5 images a class, frozen",
    "frozen/few_shot_10": "10 images a class, frozen",
    "frozen/few_shot_25": "25 images a class, frozen",
    "frozen/linear": "linear, frozen",
}
DRAWN = ("vtab/mean_of_tasks", "finetune/val/top1", "frozen/few_shot_5")  # the first has the names of the runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """One finished run."""

    name: str  # pipeline and overrides
    uri: str  # of the registered version
    commit: str
    exaflops: float  # of pre-training, as the paper counts
    images: int  # different ones, in pre-training
    device_hours: float | None  # of both trainings, if recorded
    evaluated_on: str  # equal where scores of tasks compare
    metrics: dict[str, float]


def outcome(what: str, root: Path) -> Outcome:
    """A run by pipeline, by its directory `runs/NAME`, or by one of an override, `runs/NAME/register@FINGERPRINT`.

    Raises ConfigError naming what is there if it is none of these, or the run is not finished.
    """
    place = next((path for path in _places(what, root) if output.is_complete(path)), None)
    if place is None:
        raise ConfigError(
            f"there is no finished run {what!r}: give a pipeline (`vitflow pipelines` lists them) that has run, or "
            "a directory like runs/NAME/register@FINGERPRINT"
        )
    found = json.loads((place / "registration.json").read_text())
    tags, metrics = found["tags"], {name: value for name, value in found["metrics"].items() if value is not None}
    pretrain = json.loads(tags["config.resolved"])["pretrain"]
    seen = pretrain["train"]["steps"] * pretrain["train"]["batch_size"]
    hours = [metrics[name] for name in ("pretrain/device_hours", "finetune/device_hours") if name in metrics]
    return Outcome(
        name=" ".join(part for part in (tags["vitflow.pipeline"], tags["vitflow.overrides"]) if part),
        uri=found["uri"],
        commit=tags["git.commit"][:10],
        exaflops=exaflops(config_from_dict(pretrain["model"]), seen),
        images=int(metrics["pretrain/num_train"]),
        device_hours=sum(hours) if hours else None,
        evaluated_on=tags["vitflow.evaluated_on"],
        metrics=metrics,
    )


def sections(outcomes: Sequence[Outcome]) -> list[Section]:
    """A table with a column for each run, and two pictures."""
    facts: list[tuple[str, ...]] = [
        ("model version", *(one.uri for one in outcomes)),
        ("commit", *(one.commit for one in outcomes)),
        ("pre-training images", *(f"{one.images:,}" for one in outcomes)),
        ("pre-training, exaFLOPs", *(f"{one.exaflops:.4g}" for one in outcomes)),
        ("device-hours", *(DASH if one.device_hours is None else f"{one.device_hours:,.2f}" for one in outcomes)),
    ]
    scores = [
        (called, *(f"{100 * one.metrics[name]:.1f}" if name in one.metrics else DASH for one in outcomes))
        for name, called in SCORES.items()
        if any(name in one.metrics for one in outcomes)
    ]
    apart = (
        "" if len({one.evaluated_on for one in outcomes}) == 1 else " The runs were judged by different tasks or data:"
    )
    apart += " scores of tasks do not compare." if apart else ""
    return [
        Section(
            title="Side by side",
            head=("", *(f"{letter}: {one.name}" for letter, one in zip(letters(), outcomes, strict=False))),
            lines=(*facts, *scores),
            note=f"Scores in %.{apart}",
        ),
        _picture(outcomes, "Performance against compute", "exaflops", "pre-training, exaFLOPs", "paper Fig. 5"),
        _picture(outcomes, "Accuracy against data size", "images", "pre-training images", "paper Figs. 3 and 4"),
    ]


def letters() -> Iterator[str]:
    """What the pictures call the runs: A to Z, then AA and so on."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_uppercase, repeat=length))


def numbers(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The same for scripts."""
    return [dataclasses.asdict(one) for one in outcomes]


def _picture(outcomes: Sequence[Outcome], title: str, field: str, label: str, after: str) -> Section:
    from vit.analysis import comparison

    lines = {
        SCORES[name]: [
            (letter, getattr(one, field), one.metrics[name])
            for letter, one in zip(letters(), outcomes, strict=False)
            if name in one.metrics
        ]
        for name in DRAWN
    }
    shown = {name: points for name, points in lines.items() if points}
    picture = drawn(lambda path: comparison.scatter(shown, path, x=label, y="top-1, %"), f"{title} (after {after})")
    return Section(title=title, pictures=picture)


def _places(what: str, root: Path) -> list[Path]:
    named = [root / "runs" / what / "register"] if what in names() else []
    return [*named, Path(what), Path(what) / "register"]
