"""How good a network's answers are on a split: top-1, and the mean average precision where images have several labels.

Everything is a sum over images, so any number of ranks gives the same numbers. Every rank runs the network equally
often: spread over the ranks (FSDP2), it is put together for each run by all of them.

- top-1 of images with several labels: the class with the largest score is one of them; images without a label count
  neither way. This is the rule of ImageNet-ReaL (google-research/reassessed-imagenet).
- mAP: for each class the average precision of ranking all images by their score for it, then the mean over the classes
  that have an image (scikit-learn's `average_precision_score`, average="macro"). Scores are counted in bins, of which
  the images count as equal, so that memory depends on the number of classes and not on that of images.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from vit.data.loader import evaluation_batches
from vit.data.shards import Shards
from vit.data.views import View
from vit.training.distributed import device, rank, sum_over_ranks, world_size
from vit.training.loss import top1
from vit.typing import Ints

LARGEST = 16.0  # logit: beyond, sigmoid is within 1e-7 of 0 or 1
BINS = 1024  # of 1/32: within one, probabilities differ by less than a hundredth
BATCH = 256  # images of one run of the network, per rank


def shared_batches(shards: Shards, *, resolution: int, view: View) -> Iterator[tuple[Tensor, Tensor, Ints]]:
    """This rank's images B 3 R R, their labels, and their rows in the index; equally many batches on every rank.

    A rank that has fewer is given one more image, which is not its own: that batch has no rows.
    """
    rows = np.arange(rank(), len(shards), world_size(), dtype=np.int64)
    most, done = math.ceil(math.ceil(len(shards) / world_size()) / BATCH), 0
    for images, labels in evaluation_batches(shards, rows.tolist(), resolution=resolution, view=view, batch_size=BATCH):
        yield images, labels, rows[done * BATCH : (done + 1) * BATCH]
        done += 1
    if done < most:
        for images, labels in evaluation_batches(shards, [0], resolution=resolution, view=view):
            yield images, labels, rows[:0]


@torch.inference_mode()
def score(model: nn.Module, shards: Shards, *, resolution: int, view: View) -> dict[str, float]:
    """`top1` over all images of the shards, and `mAP` if those have several labels; shared out over the ranks.

    Raises ValueError if no image has a label.
    """
    model.eval()
    num_classes = len(shards.class_names)
    hits = torch.zeros(2, dtype=torch.float64, device=device())  # right, of how many
    counts = Counts(num_classes) if shards.multi_label else None
    for images, labels, rows in shared_batches(shards, resolution=resolution, view=view):
        logits, labels = model(images).float()[: len(rows)], labels[: len(rows)]
        if counts is None:
            hits += torch.tensor([top1(logits, labels), len(labels)], dtype=torch.float64, device=device())
        else:
            chosen = labels.gather(1, logits.argmax(dim=1, keepdim=True))
            hits += torch.stack([chosen.sum(), (labels.sum(dim=1) > 0).sum()]).double()
            counts.add(logits, labels)
    summed = sum_over_ranks(hits)
    right, total = summed[0].item(), summed[1].item()
    if not total:
        raise ValueError(f"none of the {len(shards)} images of {shards.uri} that are to be scored has a label")
    return {"top1": right / total} | ({} if counts is None else {"mAP": counts.mean_average_precision()})


class Counts:
    """How many images of and not of each class have their score in each bin."""

    def __init__(self, num_classes: int) -> None:
        self._counts = torch.zeros(num_classes * BINS, 2, device=device())

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in logits B C and targets B C, 1 for an image's labels."""
        bins = ((logits.clamp(-LARGEST, LARGEST) + LARGEST) * ((BINS - 1) / (2 * LARGEST))).round().long()
        places = bins + BINS * torch.arange(logits.shape[1], device=logits.device)
        ones = torch.stack([targets, 1 - targets], dim=-1).float()
        self._counts.index_add_(0, places.flatten(), ones.reshape(-1, 2))

    def mean_average_precision(self) -> float:
        """Over the classes that have an image; on every rank the same."""
        # Float32 counts to 16 million exactly. From the highest bin down, what lies in it or above:
        above = sum_over_ranks(self._counts).double().reshape(-1, BINS, 2).flip(1).cumsum(dim=1)
        found, all_above = above[..., 0], above.sum(dim=-1)
        new = torch.diff(found, dim=1, prepend=torch.zeros_like(found[:, :1]))
        totals = found[:, -1]
        precisions = (new * found / all_above.clamp(min=1)).sum(dim=1)
        return float((precisions[totals > 0] / totals[totals > 0]).mean())
