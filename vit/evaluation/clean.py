"""Accuracy without the test images that the training set shows, as in Table 7 of BiT (arXiv 1912.11370)."""

from collections.abc import Set

import torch
from torch import nn

from vit.data.augment import View
from vit.data.loader import evaluation_batches
from vit.data.shards import Shards
from vit.training.loss import top1


@torch.inference_mode()
def without(
    model: nn.Module, shards: Shards, leaked: Set[str], full: float, *, resolution: int, view: View
) -> tuple[float | None, int]:
    """Top-1 over the images whose keys are not in `leaked`, and how many those are; None if there are none.

    `full` is the top-1 over all images: only the leaked ones, which are few, are looked at again.
    """
    rows = [row for row, key in enumerate(shards.keys) if key in leaked] if leaked else []
    clean = len(shards) - len(rows)
    if not rows or not clean:
        return (full if clean else None), clean
    model.eval()
    batches = evaluation_batches(shards, rows, resolution=resolution, view=view)
    correct = round(full * len(shards)) - sum(int(top1(model(images), labels)) for images, labels in batches)
    return correct / clean, clean
