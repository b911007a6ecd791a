"""Small networks with random weights, as checkpoints, for the tests of weight formats."""

from typing import Any

import torch
from hypothesis import strategies as st

from vit.models.resnet import ResNetConfig
from vit.models.vit import ViTConfig
from vit.models.weights.checkpoint import Checkpoint, skeleton

V1: dict[str, Any] = {"flavour": "v1", "group_norm_eps": 1e-6, "standardize_eps": 1e-5, "standardize_eps_on": "std"}
V2: dict[str, Any] = {
    "flavour": "v2",
    "group_norm_eps": 1e-5,
    "standardize_eps": 1e-10,
    "standardize_eps_on": "variance",
}


def vit(**changes: Any) -> ViTConfig:
    """Two blocks, 16 wide, 2 x 2 patches, the authors' numerics."""
    values: dict[str, Any] = {
        "family": "vit",
        "resolution": 8,
        "patch_size": 4,
        "stem": None,
        "width": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_dim": 24,
        "pooling": "tok",
        "representation": False,
        "position": "learned",
        "position_at": "stem",
        "gelu": "tanh",
        "layer_norm_eps": 1e-6,
        "dropout": 0.0,
    }
    return ViTConfig(**(values | changes))


def resnet(layers: tuple[int, ...], resolution: int, **numerics: Any) -> ResNetConfig:
    return ResNetConfig(family="resnet", resolution=resolution, layers=layers, width_factor=1, **(numerics or V1))


def hybrid(layers: tuple[int, ...] = (1,), **changes: Any) -> ViTConfig:
    """A hybrid of 2 x 2 patches, each one cell of its stem."""
    stem = resnet(layers, 1)
    stem = resnet(layers, 2 * stem.stride)
    return vit(**{"stem": stem, "resolution": stem.resolution, "patch_size": 1} | changes)


def filled(config: ViTConfig | ResNetConfig, num_classes: int, seed: int = 0) -> Checkpoint:
    """A checkpoint of normal random numbers, a little apart from zero, so that every tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(tensor.shape, generator=generator) * 0.3 + 0.1
        for name, tensor in skeleton(config, num_classes).items()
    }
    return Checkpoint(config=config, num_classes=num_classes, state=state, origin="a toy")


@st.composite
def vits(draw: st.DrawFn, **fixed: Any) -> ViTConfig:
    """Any small ViT that the authors' files can hold."""
    heads, patch_size, grid = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    values: dict[str, Any] = {
        "resolution": grid * patch_size,
        "patch_size": patch_size,
        "num_heads": heads,
        "width": heads * 4 * draw(st.integers(2, 3)),
        "depth": draw(st.integers(1, 11)),  # past nine, blocks are not in the order of their names
        "mlp_dim": draw(st.integers(1, 9)),
        "pooling": draw(st.sampled_from(["tok", "gap"])),
        "representation": draw(st.booleans()),
    }
    return vit(**(values | fixed))


def same(a: Checkpoint, b: Checkpoint) -> bool:
    """Equal configs and tensors, bit for bit."""
    return (a.config, a.num_classes, a.state.keys()) == (b.config, b.num_classes, b.state.keys()) and all(
        torch.equal(tensor, b.state[name]) and tensor.dtype == b.state[name].dtype for name, tensor in a.state.items()
    )
