"""The network against the authors' file format and logits, the paper's numbers, and its own promises."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.vit.models.toy_vit import B16, H14, R50_B16, R_TI16, STEM, TINY, randomised
from vit.models.position import resize_pos_embed
from vit.models.resnet import ResNet, ResNetConfig
from vit.models.vit import ViT, ViTConfig

GOLDEN = Path(__file__).parents[2] / "golden"


def official_state() -> dict[str, Tensor]:
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
        for parameter, name in (("kernel", "weight"), ("bias", "bias")):
            parts = [npz[f"{attention}/{part}/{parameter}"].flatten(-2) for part in ("query", "key", "value")]
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


@pytest.mark.parametrize(
    ("config", "num_classes", "expected"),
    [
        (B16, 0, 85_798_656),
        (B16, 1000, 86_567_656),
        (dataclasses.replace(B16, representation=True), 21_843, 103_186_515),
        (dataclasses.replace(B16, pooling="gap"), 1000, 86_566_120),
        (R50_B16, 0, 97_890_112),
        (R_TI16, 1000, 6_337_704),
        (dataclasses.replace(H14, representation=True), 18_291, 655_835_251),
    ],
)
def test_parameter_counts_of_the_paper(config: ViTConfig, num_classes: int, expected: int) -> None:
    with torch.device("meta"):
        model = ViT(config, num_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


BODY = {"patch_embed.proj", "norm"} | {
    f"blocks.{i}.{name}"
    for i, name in itertools.product(range(3), ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"))
}
ATTENTION_POOL = {f"attn_pool.{name}" for name in ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2")}


@pytest.mark.parametrize(
    ("fields", "layers", "parameters"),
    [
        ({}, {"head"}, {"cls_token", "pos_embed"}),
        ({"representation": True}, {"head", "pre_logits.fc"}, {"cls_token", "pos_embed"}),
        ({"pooling": "gap"}, {"head"}, {"pos_embed"}),
        ({"pooling": "map"}, {"head"} | ATTENTION_POOL, {"pos_embed", "attn_pool.latent"}),
        ({"position": "2d"}, {"head"}, {"cls_token", "pos_embed_x", "pos_embed_y", "pos_embed_cls"}),
        ({"position": "sincos2d", "pooling": "gap"}, {"head"}, set()),
        ({"position": "none"}, {"head"}, {"cls_token"}),
        ({"position": "relative", "position_at": "shared"}, {"head"}, {"cls_token", "relative"}),
        (
            {"position": "relative", "position_at": "every"},
            {"head"},
            {"cls_token", *(f"blocks.{i}.attn.relative" for i in range(3))},
        ),
    ],
)
def test_state_dict_has_timms_names(fields: dict[str, Any], layers: set[str], parameters: set[str]) -> None:
    expected = {f"{layer}.{kind}" for layer in BODY | layers for kind in ("weight", "bias")} | parameters
    assert set(ViT(dataclasses.replace(TINY, **fields), 5).state_dict()) == expected


def test_tokens_stand_in_raster_order() -> None:
    model = ViT(dataclasses.replace(TINY, depth=1), 0)
    images = torch.randn(2, 3, 32, 32)
    tokens = model.patches(images)
    for index, (row, column) in enumerate(itertools.product(range(0, 32, 8), range(0, 32, 8))):
        crop = images[:, :, row : row + 8, column : column + 8]
        alone = torch.einsum("bchw,dchw->bd", crop, model.patch_embed.proj.weight)
        torch.testing.assert_close(tokens[:, index], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("resolution", "layers", "patch_size", "grid"),
    [(32, (1, 1), 1, 4), (33, (1, 1), 1, 5), (40, (1, 2, 1), 3, 1), (224, (), 8, 7), (224, (1, 1, 1), 1, 14)],
)
def test_hybrids_cut_the_stems_feature_map(
    resolution: int, layers: tuple[int, ...], patch_size: int, grid: int
) -> None:
    stem = dataclasses.replace(STEM, resolution=resolution, layers=layers)
    model = ViT(dataclasses.replace(TINY, resolution=resolution, patch_size=patch_size, stem=stem, depth=1), 0)
    assert model.config.grid == grid and model.config.num_tokens == grid**2 + 1
    with torch.no_grad():
        images = torch.randn(1, 3, resolution, resolution)
        cells, tokens = ResNet.forward_features(as_resnet(model, stem), images), model.patches(images)
    for index, (row, column) in enumerate(itertools.product(range(grid), range(grid))):
        rows, columns = (slice(i * patch_size, (i + 1) * patch_size) for i in (row, column))
        alone = torch.einsum("bchw,dchw->bd", cells[:, :, rows, columns], model.patch_embed.proj.weight)
        torch.testing.assert_close(tokens[:, index], alone, rtol=1e-4, atol=1e-4)


def as_resnet(model: ViT, stem: ResNetConfig) -> ResNet:
    """The hybrid's stem as a network of its own; timm names a lone root block without "stem."."""
    resnet, prefix = ResNet(stem, 0), "" if stem.layers else "stem."
    state = model.patch_embed.backbone.state_dict()
    resnet.load_state_dict({prefix + name: value for name, value in state.items()})
    return resnet


@pytest.mark.parametrize(
    ("layers", "names"),
    [((1,), {"stem.conv.weight", "stem.norm.weight", "stages.0.blocks.0.conv1.weight"}), ((), {"conv.weight"})],
)
def test_hybrids_have_timms_names(layers: tuple[int, ...], names: set[str]) -> None:
    config = dataclasses.replace(TINY, patch_size=1, stem=dataclasses.replace(STEM, layers=layers))
    state = ViT(config, 0).state_dict()
    assert {f"patch_embed.backbone.{name}" for name in names} | {"patch_embed.proj.weight"} <= set(state)
    if not layers:
        stem = {name for name in state if "backbone" in name}
        assert stem == {f"patch_embed.backbone.{name}" for name in ("conv.weight", "norm.weight", "norm.bias")}


def test_moving_patches_changes_the_logits_and_moving_their_positions_too_changes_them_back() -> None:
    model = randomised(pooling="gap")
    images = torch.randn(2, 3, 32, 32)
    moved = images.clone()
    moved[:, :, 0:8, 8:16], moved[:, :, 16:24, 24:32] = images[:, :, 16:24, 24:32], images[:, :, 0:8, 8:16]
    before = model(images)
    assert (model(moved) - before).abs().max() > 0.05
    first, second = 0 * 4 + 1, 2 * 4 + 3  # row by row
    model.pos_embed.data[:, [first, second]] = model.pos_embed.data[:, [second, first]]
    torch.testing.assert_close(model(moved), before, rtol=1e-4, atol=1e-4)


@given(order=st.permutations(range(4)), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_permuting_the_batch_permutes_the_logits(order: list[int], seed: int) -> None:
    model = randomised()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        torch.testing.assert_close(model(images[order]), model(images)[order], rtol=1e-5, atol=1e-5)


def test_pooling_sees_class_token_or_mean_of_patches() -> None:
    tokens = torch.randn(2, 17, 32)
    torch.testing.assert_close(randomised().pool(tokens), tokens[:, 0])
    torch.testing.assert_close(randomised(pooling="gap").pool(tokens[:, 1:]), tokens[:, 1:].mean(dim=1))


def test_attention_pooling_equals_big_visions_head_written_out() -> None:
    model = randomised(pooling="map")
    pool, tokens = model.attn_pool, torch.randn(2, 16, 32)
    assert pool is not None
    kernels = [pool.q.weight, *pool.kv.weight.chunk(2)]
    biases = [pool.q.bias, *pool.kv.bias.chunk(2)]
    pooled = []
    for x in tokens:  # one image, one head of width 8 at a time
        heads = []
        for head in (slice(i, i + 8) for i in range(0, 32, 8)):
            sources = (pool.latent[0], x, x)
            q, k, v = (s @ w[head].T + b[head] for s, w, b in zip(sources, kernels, biases, strict=True))
            heads.append((q @ k.T / 8**0.5).softmax(dim=-1) @ v)
        y = torch.cat(heads, dim=1) @ pool.proj.weight.T + pool.proj.bias
        normed = (y - y.mean()) / (y.var(correction=0) + 1e-6).sqrt() * pool.norm.weight + pool.norm.bias
        hidden = normed @ pool.mlp.fc1.weight.T + pool.mlp.fc1.bias
        hidden = 0.5 * hidden * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
        pooled.append(y + hidden @ pool.mlp.fc2.weight.T + pool.mlp.fc2.bias)
    torch.testing.assert_close(model.pool(tokens), torch.cat(pooled), rtol=1e-4, atol=1e-5)


def test_representation_layer_is_tanh_and_no_classes_gives_features() -> None:
    model, images = randomised(num_classes=0, representation=True), torch.randn(2, 3, 32, 32)
    tokens = model.encode(model.patches(images))
    fc = model.pre_logits.fc
    torch.testing.assert_close(model(images), torch.tanh(tokens[:, 0] @ fc.weight.T + fc.bias), rtol=1e-4, atol=1e-5)
    assert torch.equal(model(images), model.features(images))


@pytest.mark.parametrize(("gelu", "approximate"), [("tanh", "tanh"), ("erf", "none")])
def test_gelu_is_the_configured_one(gelu: str, approximate: str) -> None:
    mlp, x = randomised(gelu=gelu).blocks[0].mlp, torch.randn(2, 17, 32)
    hidden = F.gelu(mlp.fc1(x), approximate=approximate)
    torch.testing.assert_close(mlp(x), mlp.fc2(hidden), rtol=1e-6, atol=1e-6)
    other = F.gelu(mlp.fc1(x), approximate={"tanh": "none", "none": "tanh"}[approximate])
    assert (mlp(x) - mlp.fc2(other)).abs().max() > 1e-5


def test_layer_norm_eps_is_the_configured_one_everywhere() -> None:
    model = ViT(dataclasses.replace(TINY, layer_norm_eps=1e-12, pooling="map"), 0)
    norms = [module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert norms == [1e-12] * (2 * 3 + 2)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"resolution": 36}, "resolution 36 is not a multiple of patch_size 8; nearest are 32 and 40"),
        ({"num_heads": 5}, "width 32 is not a multiple of num_heads 5"),
        ({"depth": 0}, "depth 0 must be at least 1"),
        ({"dropout": 1.0}, "dropout 1.0 must be at least 0 and below 1"),
        ({"pooling": "mean"}, "pooling 'mean' is none of 'tok', 'gap', 'map'"),
        (
            {"position": "relative"},
            "position 'relative' cannot enter at position_at 'stem'; it can at 'every' or 'shared'",
        ),
        ({"position": "sincos2d", "position_at": "every"}, "'sincos2d' cannot enter at position_at 'every'"),
        ({"position": "sincos2d", "width": 4}, "needs a width of 8 or more"),
        ({"position": "2d", "width": 33, "num_heads": 3}, "width 33 must be even"),
        ({"stem": STEM, "patch_size": 3}, "stem makes 4 x 4 cells of resolution 32"),
        ({"stem": STEM, "resolution": 64}, "stem's resolution 32 must equal the network's resolution 64"),
        ({"stem": dataclasses.replace(STEM, flavour="v2")}, "a ResNet of flavour 'v1', not 'v2'"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps 0.0 must be above 0"),
    ],
)
def test_a_config_that_does_not_fit_together_says_so(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(TINY, **fields)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="images of 32 x 40 do not fit a network of resolution 32"):
        randomised()(torch.randn(1, 3, 32, 40))
