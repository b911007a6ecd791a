"""The ResNets of BiT (v2) and of the hybrids (v1) a second time, in numpy and from their description alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from vit.models.resnet import ResNet

Array = np.ndarray[Any, np.dtype[np.float64]]


class Reference:
    """The forward pass from the state dict alone: paper.md 1.6 and 1.7 in numpy, every padding explicit."""

    def __init__(self, model: ResNet) -> None:
        self.config = model.config
        self.state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}

    def pad(self, x: Array, kernel: int, stride: int) -> Array:
        widths = []
        for side in x.shape[2:]:
            low = high = (kernel - 1) // 2
            if self.config.flavour == "v1":
                total = 0
                while (side + total - kernel) // stride + 1 < -(-side // stride):
                    total += 1
                low, high = total // 2, total - total // 2
            widths.append((low, high))
        return np.pad(x, ((0, 0), (0, 0), *widths))

    def conv(self, x: Array, name: str, stride: int) -> Array:
        kernel = self.state[f"{name}.weight"]
        eps = self.config.standardize_eps
        flat = kernel.reshape(len(kernel), -1)
        mean, variance = flat.mean(1, keepdims=True), flat.var(1, ddof=0, keepdims=True)
        if self.config.standardize_eps_on == "std":
            flat = (flat - mean) / (np.sqrt(variance) + eps)
        else:
            flat = (flat - mean) / np.sqrt(variance + eps)
        padded = self.pad(x, kernel.shape[2], stride)
        weight = torch.from_numpy(flat.reshape(kernel.shape))
        return torch.nn.functional.conv2d(torch.from_numpy(padded), weight, stride=stride).numpy()

    def group_norm(self, x: Array, name: str) -> Array:
        groups = x.reshape(len(x), 32, -1)
        centred = groups - groups.mean(2, keepdims=True)
        groups = centred / np.sqrt((centred**2).mean(2, keepdims=True) + self.config.group_norm_eps)
        scale, bias = (self.state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
        return groups.reshape(x.shape) * scale + bias

    def norm_relu(self, x: Array, name: str) -> Array:
        return np.maximum(self.group_norm(x, name), 0)

    def root(self, x: Array) -> Array:
        x = self.conv(x, "stem.conv", 2)
        if self.config.flavour == "v1":
            # -inf where the padding is, to be sure that zeros do as well
            x = self.norm_relu(x, "stem.norm")
            inside = self.pad(np.ones_like(x), 3, 2)
            x = np.where(inside == 1, self.pad(x, 3, 2), -np.inf)
        else:
            x = self.pad(x, 3, 2)
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
        return windows[:, :, ::2, ::2].max(axis=(4, 5))

    def unit_v1(self, x: Array, name: str, stride: int) -> Array:
        shortcut = x
        if f"{name}.downsample.conv.weight" in self.state:
            shortcut = self.group_norm(self.conv(x, f"{name}.downsample.conv", stride), f"{name}.downsample.norm")
        y = self.norm_relu(self.conv(x, f"{name}.conv1", 1), f"{name}.norm1")
        y = self.norm_relu(self.conv(y, f"{name}.conv2", stride), f"{name}.norm2")
        y = self.group_norm(self.conv(y, f"{name}.conv3", 1), f"{name}.norm3")
        return np.maximum(y + shortcut, 0)

    def unit_v2(self, x: Array, name: str, stride: int) -> Array:
        y = self.norm_relu(x, f"{name}.norm1")
        shortcut = x
        if f"{name}.downsample.conv.weight" in self.state:
            shortcut = self.conv(y, f"{name}.downsample.conv", stride)
        y = self.conv(y, f"{name}.conv1", 1)
        y = self.conv(self.norm_relu(y, f"{name}.norm2"), f"{name}.conv2", stride)
        return self.conv(self.norm_relu(y, f"{name}.norm3"), f"{name}.conv3", 1) + shortcut

    def maps(self, x: Array) -> Iterator[Array]:
        """After the root, after every unit, and after the last normalisation."""
        unit_of = self.unit_v1 if self.config.flavour == "v1" else self.unit_v2
        x = self.root(x)
        yield x
        for stage, units in enumerate(self.config.layers):
            for unit in range(units):
                x = unit_of(x, f"stages.{stage}.blocks.{unit}", 2 if stage > 0 and unit == 0 else 1)
                yield x
        yield self.norm_relu(x, "norm") if self.config.flavour == "v2" else x

    def logits(self, features: Array) -> Array:
        return features @ self.state["head.fc.weight"][:, :, 0, 0].T + self.state["head.fc.bias"]
