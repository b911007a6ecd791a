"""What a step minimises, from a model and a batch; the loop knows no other difference between objectives."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn

from vit.models.masked import Corruption, MaskedPatchPrediction
from vit.training.config import TrainConfig
from vit.training.loss import classification_loss

# Images B 3 R R, and what to say about them: labels B, targets B C, or which patches are hidden.
Batch: TypeAlias = tuple[Tensor, Tensor | Corruption]
# The loss, and whatever else is worth watching; scalars on the device, means over the batch.
Objective: TypeAlias = Callable[[nn.Module, Batch], dict[str, Tensor]]


def make_objective(model: nn.Module, config: TrainConfig) -> Objective:
    """Masked patch prediction for a model that is made for it, else classification. `model` is the unwrapped one."""
    if isinstance(model, MaskedPatchPrediction):
        return lambda network, batch: {"loss": network(*batch)}

    def classify(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images, labels = batch
        assert isinstance(labels, Tensor)
        logits = network(images).float()
        loss = classification_loss(logits, labels, config.loss, config.label_smoothing)
        return {"loss": loss, "top1": hits(logits.detach(), labels).float().mean()}

    return classify


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the largest logit is the label's, bool B; of several labels, the heaviest or first."""
    return torch.argmax(logits, dim=1) == (labels.argmax(dim=1) if labels.is_floating_point() else labels)


def split(batch: Batch, size: int) -> Iterator[Batch]:
    """The batch in parts of `size` images."""
    images, targets = batch
    if len(images) == size:
        yield batch
    elif isinstance(targets, Tensor):
        yield from zip(_parts(images, size), _parts(targets, size), strict=True)
    else:
        indices, source, masked = (_parts(tensor, size) for tensor in targets)
        yield from zip(_parts(images, size), map(Corruption, indices, source, masked), strict=True)


def _parts(tensor: Tensor, size: int) -> tuple[Tensor, ...]:
    return torch.split(tensor, size)  # pyright: ignore[reportUnknownMemberType]  torch's method has no type
