"""Position embeddings: each kind written out by loops, and the change of resolution against those who defined it."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom
from torch import Tensor
from torch.nn import functional as F

from tests.vit.models.toy_vit import TINY, randomised
from vit.models.position import Method, relative_logits, resize_pos_embed, sincos2d, table_2d
from vit.models.vit import ViT

SIZES: dict[str, Any] = {"resolution": 24, "width": 16, "num_heads": 2, "mlp_dim": 24}
CONFIG = dataclasses.replace(TINY, **SIZES)
METHODS: list[Method] = ["official", "timm", "huggingface"]
GRIDS = st.tuples(st.integers(1, 7), st.integers(1, 7))


def table(grid: tuple[int, int], *, prefix: int, layers: int = 2) -> Tensor:
    """[layers, N, 3], float32, the same for the same arguments."""
    seed = grid[0] * 100 + grid[1] * 10 + prefix
    values = np.random.default_rng(seed).normal(size=(layers, prefix + grid[0] * grid[1], 3))
    return torch.from_numpy(values.astype(np.float32))


@given(old=GRIDS, new=GRIDS, prefix=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_official_resize_equals_scipy_zoom(old: tuple[int, int], new: tuple[int, int], prefix: int) -> None:
    before = table(old, prefix=prefix)
    after = resize_pos_embed(before, new, num_prefix_tokens=prefix, source=old)
    factors = (new[0] / old[0], new[1] / old[1], 1)
    for layer in range(2):
        theirs = zoom(before[layer, prefix:].reshape(*old, 3).numpy(), factors, order=1)
        np.testing.assert_allclose(after[layer, prefix:].reshape(*new, 3).numpy(), theirs, rtol=0, atol=1e-6)
    assert torch.equal(after[:, :prefix], before[:, :prefix]) and after.dtype == before.dtype


@given(grid=GRIDS, prefix=st.integers(0, 2), method=st.sampled_from(METHODS))
@settings(deadline=None)
def test_resize_to_the_same_grid_is_the_identity(grid: tuple[int, int], prefix: int, method: Method) -> None:
    before = table(grid, prefix=prefix)
    assert torch.equal(resize_pos_embed(before, grid, num_prefix_tokens=prefix, source=grid, method=method), before)


@pytest.mark.parametrize(("old", "new"), [((4, 4), (7, 7)), ((7, 7), (3, 5)), ((2, 6), (6, 2))])
@pytest.mark.parametrize(("method", "antialias"), [("timm", True), ("huggingface", False)])
def test_other_libraries_resize_as_they_do(
    old: tuple[int, int], new: tuple[int, int], method: Method, antialias: bool
) -> None:
    before = table(old, prefix=1, layers=1)
    image = before[:, 1:].reshape(1, *old, 3).permute(0, 3, 1, 2)
    theirs = F.interpolate(image, new, mode="bicubic", antialias=antialias).permute(0, 2, 3, 1).reshape(1, -1, 3)
    after = resize_pos_embed(before, new, num_prefix_tokens=1, source=old, method=method)
    torch.testing.assert_close(after, torch.cat([before[:, :1], theirs], dim=1), rtol=0, atol=0)
    official = resize_pos_embed(before, new, num_prefix_tokens=1, source=old)
    assert (after - official).abs().max() > 1e-2


def test_layers_resize_one_by_one_and_a_square_source_is_found() -> None:
    before = table((3, 3), prefix=1, layers=4)
    after = resize_pos_embed(before, 5, num_prefix_tokens=1)
    alone = [resize_pos_embed(layer[None], (5, 5), num_prefix_tokens=1, source=(3, 3)) for layer in before]
    assert torch.equal(after, torch.cat(alone))


def test_half_precision_tables_keep_their_type() -> None:
    before = table((3, 3), prefix=0).bfloat16()
    for method in METHODS:
        assert resize_pos_embed(before, 4, num_prefix_tokens=0, method=method).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("source", "sentence"), [(None, "10 position embeddings do not form a square"), ((3, 3), "not a grid of 3 x 3")]
)
def test_a_grid_that_does_not_fit_is_refused(source: tuple[int, int] | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        resize_pos_embed(torch.zeros(1, 11, 3), 4, num_prefix_tokens=1, source=source)


def test_2d_table_is_column_then_row_of_each_patch() -> None:
    x, y, cls = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(2, 1, 8)
    combined = table_2d(x, y, cls)
    assert combined.shape == (2, 10, 8) and torch.equal(combined[:, :1], cls)
    for row in range(3):
        for column in range(3):
            expected = torch.cat([x[:, column], y[:, row]], dim=1)
            assert torch.equal(combined[:, 1 + row * 3 + column], expected)


@pytest.mark.parametrize("pooling", ["tok", "gap"])
def test_sincos2d_follows_big_vision(pooling: str) -> None:
    config = dataclasses.replace(CONFIG, position="sincos2d", pooling=pooling)
    prefix = config.num_prefix_tokens
    ours = sincos2d(config)
    assert ours.shape == (1, 9 + prefix, 16) and ours[:, :prefix].abs().sum() == 0
    for row in range(3):
        for column in range(3):
            for i in range(4):
                omega = 1 / 10_000 ** (i / 3)
                expected = [f(p * omega) for p in (column, row) for f in (math.sin, math.cos)]
                token = ours[0, prefix + row * 3 + column]
                np.testing.assert_allclose(token[[i, 4 + i, 8 + i, 12 + i]].numpy(), expected, atol=1e-7)


def test_sincos2d_is_made_when_weights_are_loaded_into_a_meta_model() -> None:
    source = randomised(**SIZES, position="sincos2d")
    with torch.device("meta"):
        model = ViT(source.config, source.num_classes)
    model.load_state_dict(source.state_dict(), assign=True)
    images = torch.randn(2, 3, 24, 24)
    assert torch.equal(model.eval()(images), source(images))


@given(tokens=st.integers(1, 9), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_relative_logits_belong_to_the_offset_from_key_to_query(tokens: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 3, tokens, 4, generator=generator)
    offsets = torch.randn(2 * tokens - 1, 4, generator=generator)
    ours = relative_logits(q, offsets)
    assert ours.shape == (2, 3, tokens, tokens)
    for i in range(tokens):
        for j in range(tokens):
            expected = q[:, :, i] @ offsets[tokens - 1 + i - j] / 2
            torch.testing.assert_close(ours[:, :, i, j], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("position_at", ["every", "shared"])
def test_relative_attention_adds_to_content_logits_before_the_softmax(position_at: str) -> None:
    model = randomised(**SIZES, position="relative", position_at=position_at)
    attention, x = model.blocks[1].attn, torch.randn(2, 10, 16)
    offsets = attention.relative if position_at == "every" else model.relative
    q, k, v = attention.qkv(x).reshape(2, 10, 3, 2, 8).permute(2, 0, 3, 1, 4)
    rows, columns = torch.meshgrid(torch.arange(10), torch.arange(10), indexing="ij")
    keys = k[:, :, None] + offsets[9 + rows - columns]  # content and offset are both asked by the same query
    weights = (torch.einsum("bhid,bhijd->bhij", q, keys) / 8**0.5).softmax(dim=-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(2, 10, 16))
    torch.testing.assert_close(attention(x, model.relative), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", ["learned", "2d"])
@pytest.mark.parametrize("position_at", ["stem", "every", "shared"])
def test_tables_are_added_where_the_config_says(position: str, position_at: str) -> None:
    model = randomised(**SIZES, position=position, position_at=position_at)
    images, added = torch.randn(2, 3, 24, 24), model.position_tables()
    assert added is not None and len(added) == (3 if position_at == "every" else 1)
    x = torch.cat([model.cls_token.expand(2, -1, -1), model.patch_embed(images)], dim=1)
    for layer, block in enumerate(model.blocks):
        if position_at == "every" or layer == 0:
            x = x + added[layer]
        elif position_at == "shared":
            x = x + added[0]
        x = block(x)
    torch.testing.assert_close(model(images), model.head(model.norm(x)[:, 0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("position", ["none", "learned"])
def test_only_without_positions_is_the_image_a_bag_of_patches(position: str) -> None:
    model, images = randomised(**SIZES, position=position), torch.randn(2, 3, 24, 24)
    swapped = images.clone()
    swapped[..., :8], swapped[..., 16:] = images[..., 16:], images[..., :8]
    same = torch.allclose(model(images), model(swapped), rtol=1e-4, atol=1e-4)
    assert same == (position == "none")
