"""What a network answers to every image of a split: taken once, counted in several ways."""

from collections.abc import Set

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vit.data.loader import evaluation_batches
from vit.data.shards import Shards
from vit.data.views import View
from vit.typing import Ints


@torch.inference_mode()
def answers(model: nn.Module, shards: Shards, *, resolution: int, view: View) -> Ints:
    """The class with the largest logit for every image in order, int64 [N]."""
    model.eval()
    batches = evaluation_batches(shards, range(len(shards)), resolution=resolution, view=view)
    found = [torch.argmax(model(images).float(), dim=1).cpu() for images, _ in batches]
    return torch.cat(found).numpy() if found else np.zeros(0, np.int64)


def top1(answers: Ints, shards: Shards) -> float:
    """Fraction of right answers. Raises ValueError if no image has a label.

    Of an image with several labels each is right; one without labels counts neither way. That is the rule of
    ImageNet-ReaL (Beyer et al., arXiv 2006.07159; google-research/reassessed-imagenet).
    """
    score, count = clean_top1(answers, shards, frozenset())
    if score is None:
        raise ValueError(f"none of the {count or len(shards)} images of {shards.uri} to be scored has a label")
    return score


def clean_top1(answers: Ints, shards: Shards, leaked: Set[str]) -> tuple[float | None, int]:
    """Top-1 over the images whose keys are not in `leaked`, and how many those are; None if there are none.

    Accuracy without the test images that the training set shows, as in Table 7 of BiT (arXiv 1912.11370).
    """
    counted = shards.labels >= 0
    if leaked:
        counted &= np.array([key not in leaked for key in shards.keys])
    count = int(counted.sum())
    return (float(_right(answers, shards)[counted].mean()) if count else None), count


def _right(answers: Ints, shards: Shards) -> NDArray[np.bool_]:
    if not shards.multi_label:
        return answers == shards.labels
    pairs = zip(answers.tolist(), shards.label_sets, strict=True)
    return np.fromiter((answer in labels for answer, labels in pairs), bool, len(answers))
