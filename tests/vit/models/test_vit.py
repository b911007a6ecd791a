"""The network against the authors' file format and logits, and the paper's numbers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import zoom

from vit.models.files import load_backbone, load_model, save_model
from vit.models.position import resize_pos_embed
from vit.models.vit import ViT, ViTConfig

GOLDEN = Path(__file__).parents[2] / "golden"
TINY = ViTConfig(
    resolution=32,
    patch_size=8,
    width=32,
    depth=3,
    num_heads=4,
    mlp_dim=64,
    pooling="tok",
    representation=False,
    dropout=0.0,
)
B16 = ViTConfig(
    resolution=224,
    patch_size=16,
    width=768,
    depth=12,
    num_heads=12,
    mlp_dim=3072,
    pooling="tok",
    representation=False,
    dropout=0.0,
)


def official_state() -> dict[str, torch.Tensor]:
    """The authors' npz keys (paper.md §7.1) under timm's names."""
    npz = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / "vit_official_npz.npz").items()}
    state = {
        "cls_token": npz["cls"],
        "pos_embed": npz["Transformer/posembed_input/pos_embedding"],
        "patch_embed.proj.weight": npz["embedding/kernel"].permute(3, 2, 0, 1),
        "patch_embed.proj.bias": npz["embedding/bias"],
        "norm.weight": npz["Transformer/encoder_norm/scale"],
        "norm.bias": npz["Transformer/encoder_norm/bias"],
        "head.weight": npz["head/kernel"].T,
        "head.bias": npz["head/bias"],
    }
    for i in range(TINY.depth):
        theirs, ours = f"Transformer/encoderblock_{i}", f"blocks.{i}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for parameter in ("kernel", "bias"):
            parts = [npz[f"{attention}/{name}/{parameter}"].flatten(-2) for name in ("query", "key", "value")]
            name = {"kernel": "weight", "bias": "bias"}[parameter]
            state[f"{ours}.attn.qkv.{name}"] = torch.cat([part.mT if part.ndim == 2 else part for part in parts])
        state[f"{ours}.attn.proj.weight"] = npz[f"{attention}/out/kernel"].flatten(0, 1).T
        state[f"{ours}.attn.proj.bias"] = npz[f"{attention}/out/bias"]
        for norm, number in (("norm1", 0), ("norm2", 2)):
            state[f"{ours}.{norm}.weight"] = npz[f"{theirs}/LayerNorm_{number}/scale"]
            state[f"{ours}.{norm}.bias"] = npz[f"{theirs}/LayerNorm_{number}/bias"]
        for layer, number in (("fc1", 0), ("fc2", 1)):
            state[f"{ours}.mlp.{layer}.weight"] = npz[f"{theirs}/MlpBlock_3/Dense_{number}/kernel"].T
            state[f"{ours}.mlp.{layer}.bias"] = npz[f"{theirs}/MlpBlock_3/Dense_{number}/bias"]
    return state


@pytest.mark.parametrize(
    ("resolution", "images", "logits"), [(32, "images_nhwc", "logits"), (48, "images_hires_nhwc", "logits_hires")]
)
def test_logits_equal_the_authors(resolution: int, images: str, logits: str) -> None:
    io = np.load(GOLDEN / "vit_official_npz.io.npz")
    model = ViT(dataclasses.replace(TINY, resolution=resolution), num_classes=7).eval()
    state = official_state()
    state["pos_embed"] = resize_pos_embed(state["pos_embed"], resolution // 8, num_prefix_tokens=1)
    model.load_state_dict(state)
    with torch.no_grad():
        ours = model(torch.from_numpy(io[images]).permute(0, 3, 1, 2))
    torch.testing.assert_close(ours, torch.from_numpy(io[logits]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("representation", "expected"), [(False, 86_567_656), (True, 87_158_248)])
def test_parameter_count_of_b16(representation: bool, expected: int) -> None:
    with torch.device("meta"):
        model = ViT(dataclasses.replace(B16, representation=representation), num_classes=1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@given(old=st.integers(2, 9), new=st.integers(2, 12), prefix=st.integers(0, 1))
def test_resize_equals_scipy_zoom(old: int, new: int, prefix: int) -> None:
    pos_embed = torch.from_numpy(np.random.default_rng(old * 100 + new).normal(size=(1, prefix + old * old, 3)))
    ours = resize_pos_embed(pos_embed, new, num_prefix_tokens=prefix)
    theirs = zoom(pos_embed[0, prefix:].reshape(old, old, 3).numpy(), (new / old, new / old, 1), order=1)
    np.testing.assert_allclose(ours[0, prefix:].reshape(new, new, 3).numpy(), theirs, atol=1e-12)
    assert torch.equal(ours[:, :prefix], pos_embed[:, :prefix])


def test_resize_to_the_same_grid_is_identity() -> None:
    pos_embed = torch.randn(1, 17, 8)
    assert torch.equal(resize_pos_embed(pos_embed, 4, num_prefix_tokens=1), pos_embed)


def test_initialisation_follows_the_authors() -> None:
    model = ViT(dataclasses.replace(B16, depth=1, representation=True), num_classes=5, head_bias=-10.0)
    assert model.pre_logits is not None
    bound = (6 / (768 + 768)) ** 0.5  # xavier for each of q, k, v, not for the fused matrix
    assert model.blocks[0].attn.qkv.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert model.patch_embed.proj.weight.std().item() == pytest.approx((3 * 16 * 16) ** -0.5, rel=2e-2)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=2e-2)
    assert model.head.weight.abs().max() == 0 and set(model.head.bias.tolist()) == {-10.0}


@pytest.mark.parametrize("pooling", ["tok", "gap"])
def test_saved_model_loads_the_same_and_transfers(tmp_path: Path, pooling: str) -> None:
    model = ViT(dataclasses.replace(TINY, pooling=pooling, representation=True), num_classes=3).eval()
    model.head.weight.data.normal_()
    save_model(tmp_path, model, ["a", "b", "c"])
    images = torch.randn(2, 3, 32, 32)
    loaded, class_names = load_model(tmp_path)
    assert class_names == ["a", "b", "c"]
    assert torch.equal(loaded.eval()(images), model(images))
    backbone = load_backbone(tmp_path, resolution=48, num_classes=5)
    assert backbone(torch.randn(2, 3, 48, 48)).abs().max() == 0  # zero head, zero bias
    assert torch.equal(backbone.blocks[2].mlp.fc1.weight, model.blocks[2].mlp.fc1.weight)


def test_resolution_that_the_patch_does_not_divide_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="resolution 36 is not a multiple of patch_size 8; nearest are 32 and 40"):
        dataclasses.replace(TINY, resolution=36)
