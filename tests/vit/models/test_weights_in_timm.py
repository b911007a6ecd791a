"""timm's own loader of the authors' files, an independent reader, on what we write: same tensors, same logits."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm.models.resnetv2
import torch
from timm.layers.hybrid_embed import HybridEmbed
from timm.layers.std_conv import StdConv2d, StdConv2dSame
from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem
from timm.models.vision_transformer import VisionTransformer

import vit.models
from tests.vit.models.weights_toys import V2, filled, hybrid, resnet
from tests.vit.models.weights_toys import vit as toy
from vit.models.weights import big_vision, bit, files, npz
from vit.models.weights.checkpoint import Checkpoint, instantiate

POOLS: dict[str, Any] = {"tok": "token", "gap": "avg", "map": "map"}
# What timm computes whatever the file: see paper.md 1.3 and 1.7.
HYBRID_NUMERICS = {"group_norm_eps": 1e-5, "standardize_eps": 1e-8, "standardize_eps_on": "variance"}


def timm_vit(config: Any, num_classes: int, **changes: Any) -> VisionTransformer:
    model = VisionTransformer(
        img_size=config.resolution,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_dim / config.width,
        num_classes=num_classes,
        global_pool=POOLS[config.pooling],
        class_token=config.pooling == "tok",
        fc_norm=False,
        **changes,
    )
    return model.eval()


def assert_equal(theirs: torch.nn.Module, checkpoint: Checkpoint, path: Path, **settings: Any) -> None:
    """timm's model, which has just read `path`, has our tensors and our logits."""
    state = theirs.state_dict()
    assert state.keys() == checkpoint.state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in checkpoint.state.items())
    ours = vit.models.load(path, **settings)
    side = ours.config.resolution
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    assert ours(images).std() > 1e-3


@pytest.mark.parametrize("pooling", ["tok", "gap"])
def test_vit(pooling: str, tmp_path: Path) -> None:
    checkpoint = filled(toy(pooling=pooling, mlp_dim=32), 3)
    files.write_npz(path := tmp_path / "a.npz", npz.emit(checkpoint))
    theirs = timm_vit(checkpoint.config, 3)
    theirs.load_pretrained(str(path))
    assert_equal(theirs, checkpoint, path, gelu="erf")


@pytest.mark.parametrize("pooling", ["gap", "map"])
def test_big_vision(pooling: str, tmp_path: Path) -> None:
    checkpoint = filled(toy(pooling=pooling, mlp_dim=64), 3)
    files.write_npz(path := tmp_path / "a.npz", big_vision.emit(checkpoint))
    theirs = timm_vit(checkpoint.config, 3)
    theirs.load_pretrained(str(path))
    assert_equal(theirs, checkpoint, path, gelu="erf")


@pytest.mark.parametrize("layers", [(), (2, 1)])
def test_hybrid(layers: tuple[int, ...], tmp_path: Path) -> None:
    checkpoint = filled(hybrid(layers, mlp_dim=32), 3)
    files.write_npz(path := tmp_path / "a.npz", npz.emit(checkpoint))
    conv = partial(StdConv2dSame, eps=1e-8)
    backbone = (
        ResNetV2(list(layers), num_classes=0, global_pool="", preact=False, stem_type="same", conv_layer=conv)
        if layers
        else create_resnetv2_stem(3, stem_type="same", preact=False, conv_layer=conv)
    )
    theirs = timm_vit(checkpoint.config, 3, embed_layer=partial(HybridEmbed, backbone=backbone))
    theirs.load_pretrained(str(path))
    assert_equal(theirs, checkpoint, path, gelu="erf", **HYBRID_NUMERICS)


def test_bit(tmp_path: Path) -> None:
    checkpoint = filled(resnet((2, 1), 40, **V2), 3)
    files.write_npz(path := tmp_path / "a.npz", bit.emit(checkpoint))
    theirs = ResNetV2([2, 1], num_classes=3, stem_type="fixed", conv_layer=partial(StdConv2d, eps=1e-8)).eval()
    with torch.no_grad():
        timm.models.resnetv2._load_weights(theirs, str(path))
    assert_equal(theirs, checkpoint, path, resolution=40, standardize_eps=1e-8)


def test_the_authors_gelu_differs_from_timms(tmp_path: Path) -> None:
    """Else agreeing with timm's erf-GELU above would prove nothing about it."""
    checkpoint = filled(toy(), 3)
    files.write_npz(path := tmp_path / "a.npz", npz.emit(checkpoint))
    images = torch.randn(2, 3, 8, 8)
    assert not torch.equal(vit.models.load(path)(images), vit.models.load(path, gelu="erf")(images))
    assert torch.equal(vit.models.load(path)(images), instantiate(checkpoint)(images))
