"""What pre-training was worth: the fine-tuned network beside the same one from random weights, for as many FLOPs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flows.report_sections import DASH, Section
from flows.stages.config import Pipeline
from flows.stages.progress import RANDOM_INIT
from flows.stages.training import FLOPS, STEPS

TOP1 = "val/top1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spent:
    """A training, or two that follow each other."""

    what: str
    resolution: str  # pixels
    steps: int  # updates
    flops: float
    top1: float | None  # fraction of the validation images of fine-tuning; None: not measured on them


def top1(metrics: Mapping[str, Any], suffix: str = "") -> float | None:
    """Of the only seed or the mean of all; None if there was no such training."""
    value = metrics.get(f"{TOP1}_mean{suffix}") if f"{TOP1}_mean" in metrics else metrics.get(f"{TOP1}{suffix}")
    return None if value is None else float(value)


def same_budget(numbers: Mapping[str, Any], config: Pipeline) -> list[Spent]:
    """Pre-training, fine-tuning, both together and random weights; nothing if those were not trained."""
    before, tuned = numbers["pretrain"], numbers["finetune"]
    if f"{TOP1}{RANDOM_INIT}" not in tuned:
        return []
    low, high = f"{config.pretrain.model.resolution} px", f"{config.finetune.resolution} px"
    steps, flops = (before[name] + tuned[name] for name in (STEPS, FLOPS))
    control = {name: tuned[f"{name}{RANDOM_INIT}"] for name in (STEPS, FLOPS)}
    both, random = "pre-trained, then fine-tuned", "from random weights"
    return [
        Spent(what="pre-training", resolution=low, steps=before[STEPS], flops=before[FLOPS], top1=None),
        Spent(what="fine-tuning", resolution=high, steps=tuned[STEPS], flops=tuned[FLOPS], top1=None),
        Spent(what=both, resolution=f"{low}, {high}", steps=steps, flops=flops, top1=top1(tuned)),
        Spent(what=random, resolution=high, steps=control[STEPS], flops=control[FLOPS], top1=top1(tuned, RANDOM_INIT)),
    ]


def section(numbers: Mapping[str, Any], config: Pipeline) -> Section:
    """For a stranger: one sentence, and what it stands on."""
    title = "Pre-training beside random weights on the same budget"
    spent = same_budget(numbers, config)
    if not spent:
        return Section(title=title)
    *_, both, random = spent
    assert both.top1 is not None and random.top1 is not None
    apart = 100 * (both.top1 - random.top1)
    low, high = config.pretrain.model.resolution, config.finetune.resolution
    sentence = (
        f"Pre-trained at {low} px and fine-tuned at {high} px, the network answers {100 * both.top1:.1f} % of the "
        f"validation images right; the same network, trained from random weights at {high} px on the images of "
        f"fine-tuning for as many FLOPs as both took, {100 * random.top1:.1f} %: "
        f"pre-training {'gains' if apart > 0 else 'loses'} {abs(apart):.1f} points."
    )
    lines = tuple(
        (
            *(one.what, one.resolution, f"{one.steps:,}", f"{one.flops:.3g}"),
            DASH if one.top1 is None else f"{100 * one.top1:.1f}",
        )
        for one in spent
    )
    note = (
        f"Top-1, %, of {numbers['finetune']['num_val']:,} images. FLOPs: matrix products of forward and backward "
        "passes, head included. Random weights are trained by pre-training's recipe until they have used up the FLOPs "
        f"of both trainings, at a peak learning rate of {numbers['finetune'][f'learning_rate{RANDOM_INIT}']:g}."
    )
    head = ("training", "resolution", "updates", "FLOPs", "top-1")
    return Section(title=title, sentences=(sentence,), head=head, lines=lines, note=note)
