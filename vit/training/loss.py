"""Classification losses: logits B C and labels B, or soft targets B C, to a scalar."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["sigmoid", "softmax"]


def classification_loss(logits: Tensor, labels: Tensor, kind: Loss) -> Tensor:
    """Mean over the batch. Softmax at transfer; sigmoid, summed over classes, at pre-training (VT#34, UB).

    Targets B C hold a weight for each class: of mixed images, or ones for each of an image's labels.
    """
    if kind == "softmax":
        return F.cross_entropy(logits, labels)
    targets = (labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1])).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1).mean()


def top1(logits: Tensor, labels: Tensor) -> int:
    """Number of examples whose largest logit is the label's."""
    return int((torch.argmax(logits, dim=1) == labels).sum().item())
