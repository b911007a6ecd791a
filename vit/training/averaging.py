"""Exponential (Polyak) averages of the weights: what the paper fine-tuned its best ImageNet numbers with (§4.1)."""

import contextlib
from collections.abc import Generator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """average <- decay·average + (1 - decay)·weights after every update; float32, beside the weights.

    With decay 0 there is none and every method does nothing. Buffers are not averaged: our networks have none that
    change.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        named = dict(model.named_parameters()) if decay else {}
        self.weights: list[Tensor] = [parameter.detach() for parameter in named.values()]
        self.tensors: dict[str, Tensor] = {name: parameter.detach().clone() for name, parameter in named.items()}

    @torch.no_grad()
    def update(self) -> None:
        """After an optimiser step."""
        if self.decay:
            get_ema_multi_avg_fn(self.decay)(list(self.tensors.values()), self.weights, 0)

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from these."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @torch.no_grad()
    def apply(self) -> None:
        """The averages become the weights."""
        for weight, tensor in zip(self.weights, self.tensors.values(), strict=True):
            weight.copy_(tensor)

    @contextlib.contextmanager
    def applied(self) -> Generator[None]:
        """The averages are the weights inside the block."""
        own = [weight.clone() for weight in self.weights]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, tensor in zip(self.weights, own, strict=True):
                    weight.copy_(tensor)
