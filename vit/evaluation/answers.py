"""What a network answers to every image of a split: taken once, counted in several ways."""

from collections.abc import Set

import numpy as np
import torch
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


def top1(answers: Ints, labels: Ints) -> float:
    """Fraction of right answers; both int64 [N]."""
    return float((answers == labels).mean())


def clean_top1(answers: Ints, shards: Shards, leaked: Set[str]) -> tuple[float | None, int]:
    """Top-1 over the images whose keys are not in `leaked`, and how many those are; None if there are none.

    Accuracy without the test images that the training set shows, as in Table 7 of BiT (arXiv 1912.11370).
    """
    clean = np.array([key not in leaked for key in shards.keys]) if leaked else np.ones(len(shards), bool)
    count = int(clean.sum())
    return (top1(answers[clean], shards.labels[clean]) if count else None), count
