"""Classification losses: logits B C and labels B, or soft targets B C, to a scalar."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vit.training.config import Loss


def classification_loss(logits: Tensor, labels: Tensor, kind: Loss, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the batch. Softmax at transfer; sigmoid, summed over classes, at pre-training (VT#34, UB).

    Targets B C hold a weight for each class: of mixed images, or ones for each of an image's labels. Smoothing s: with
    sigmoid 1 becomes 1 - s and 0 becomes s (UB imagenet21k_vit_*: 0.9999 and 0.0001); with softmax a share s of the
    label is spread evenly over all classes (Szegedy et al. 2016).
    """
    if kind == "softmax":
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    targets = (labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1])).to(logits.dtype)
    if label_smoothing:
        targets = targets * (1 - 2 * label_smoothing) + label_smoothing
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1).mean()


def top1(logits: Tensor, labels: Tensor) -> int:
    """Number of examples whose largest logit is the label's."""
    return int((torch.argmax(logits, dim=1) == labels).sum().item())
