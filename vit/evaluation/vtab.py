"""VTAB-1k: fine-tune on a task's 1,000 examples, score its whole test split (VTAB paper; ViT paper §4.1, App. B.1.1).

One protocol for all tasks, as the paper has it, but for the no-flip and no-crop lists.
Scores of the mini suite are called mini-VTAB, never VTAB.
"""

import dataclasses
import logging
from collections.abc import Mapping, Set

import numpy as np
import torch

from vit.data.augment import AugmentConfig
from vit.data.loader import Stream, training_batches
from vit.data.shards import Shards
from vit.data.views import View
from vit.evaluation.answers import answers, clean_top1, top1
from vit.models.build import Model, build
from vit.training.hyperrule import TransferConfig
from vit.training.loop import train

TRAIN_SPLITS = ("train800", "val200")  # the final model trains on all 1,000
GROUPS = ("natural", "specialized", "structured")
# Tasks whose label a flip or a crop would change (BiT App. F), and their mini counterparts.
NO_FLIP = frozenset({"dsprites_ori", "dsprites_loc", "smallnorb_azi", "mini_ori", "mini_loc", "mini_azi"})
NO_CROP = frozenset(
    {"clevr_count", "clevr_dist", "dmlab", "kitti", "dsprites_loc", "mini_count", "mini_dist", "mini_loc"}
)

logger = logging.getLogger("vitflow.vtab")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Result of one task."""

    top1: float  # fraction of the test split
    chance: float  # what always answering the most common test label scores
    num_test: int
    top1_clean: float | None  # without the test images that the training set shows; None if those are all
    num_clean: int


def transfer(
    model: Model,
    task: str,
    config: TransferConfig,
    *,
    examples: Shards,
    test: Shards,
    leaked: Set[str] = frozenset(),
) -> Score:
    """Fine-tune `model` (which has a fresh head of the task's classes) in place on the examples and score it.

    `leaked` are the keys of test images that the pre-training corpus shows: they are left out of `top1_clean`.
    """
    fine_tune(model, task, config, examples)
    return _scored(model, test, config.resolution, config.augment.evaluation, leaked)


def answered(model: Model, test: Shards, view: View, leaked: Set[str] = frozenset()) -> Score:
    """Score a model as it is, by its own head and resolution.

    Raises ValueError if its classes cannot be those of `test`.
    """
    if model.num_classes != len(test.class_names):
        raise ValueError(
            f"{test.uri} has {len(test.class_names)} classes, but the model answers {model.num_classes}: it can only "
            "be scored there after fine-tuning on a data set of the same classes"
        )
    return _scored(model, test, model.config.resolution, view, leaked)


def _scored(model: Model, test: Shards, resolution: int, view: View, leaked: Set[str]) -> Score:
    found = answers(model, test, resolution=resolution, view=view)
    top1_clean, num_clean = clean_top1(found, test, leaked)
    labelled = test.labels[test.labels >= 0]
    return Score(
        top1=top1(found, test),
        chance=float(np.bincount(labelled).max() / len(labelled)),
        num_test=len(labelled),
        top1_clean=top1_clean,
        num_clean=num_clean,
    )


def fine_tune(model: Model, task: str, config: TransferConfig, examples: Shards) -> None:
    """Train in place with what the task's name says of flips and crops."""
    augment = augment_for(task, config.augment)

    def batches(first: int) -> Stream:
        return training_batches(
            examples,
            resolution=config.resolution,
            config=augment,
            batch_size=config.train.batch_size,
            seed=config.train.seed,
            first_step=first,
        )

    train(
        model,
        batches,
        config.train,
        state=None,
        log=lambda step, metrics: logger.debug("%s step %d: %s", task, step, metrics),
        save=lambda state: None,
    )


def augment_for(task: str, augment: AugmentConfig) -> AugmentConfig:
    """The protocol's augmentation without what would change this task's labels."""
    return dataclasses.replace(
        augment, flip=augment.flip and task not in NO_FLIP, crop="none" if task in NO_CROP else augment.crop
    )


def means(top1: Mapping[str, float], groups: Mapping[str, str]) -> dict[str, float]:
    """Mean of each group that has tasks, `mean_of_tasks` and `mean_of_groups`: papers report either, hence both."""
    by_group = {
        group: float(np.mean([top1[task] for task in top1 if groups[task] == group]))
        for group in GROUPS
        if any(groups[task] == group for task in top1)
    }
    return by_group | {
        "mean_of_tasks": float(np.mean(list(top1.values()))),
        "mean_of_groups": float(np.mean(list(by_group.values()))),
    }


def untrained(model: Model, seed: int) -> Model:
    """A network of the same shape with fresh weights: the baseline that shows what pre-training is worth."""
    torch.manual_seed(seed)
    return build(model.config, model.num_classes)
