"""Attention distance, rollout, filters and positions against closed forms."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from tests.networks import tiny_vit
from vit.analysis.analyse import SHOWN, analyse
from vit.analysis.attention import as_mask, attention, attention_distance, rollout
from vit.analysis.embeddings import filter_components, position_similarity
from vit.models.vit import ViT

SIDE, PATCH = 5, 16
TINY = tiny_vit(resolution=32, patch_size=8)


def uniform(tokens: int) -> Tensor:
    return torch.full((2, 3, tokens, tokens), 1 / tokens)


def test_distance_of_uniform_attention() -> None:
    """The mean over all pairs of places on the grid, in pixels."""
    places = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2)
    mean = np.linalg.norm(places[:, None] - places[None], axis=2).mean() * PATCH
    found = attention_distance(uniform(SIDE**2), patch_pixels=PATCH)
    np.testing.assert_allclose(found.numpy(), [mean] * 3, rtol=1e-6)


def test_distance_of_attention_to_oneself_and_to_the_right_neighbour() -> None:
    here = torch.eye(SIDE**2).expand(2, 3, -1, -1)
    assert attention_distance(here, patch_pixels=PATCH).tolist() == [0.0] * 3
    right = torch.zeros(SIDE**2, SIDE**2)
    for place in range(SIDE**2):
        right[place, place + 1 if place % SIDE < SIDE - 1 else place] = 1.0
    expected = PATCH * (SIDE - 1) / SIDE  # the last column looks at itself
    assert attention_distance(right[None, None], patch_pixels=PATCH).tolist() == pytest.approx([expected])


def test_distance_leaves_the_class_token_out() -> None:
    whole = torch.zeros(1, 1, SIDE**2 + 1, SIDE**2 + 1)
    whole[..., 0] = 0.5  # half of what every token sees is the class token
    whole[..., 1:] = 0.5 / SIDE**2
    with_token = attention_distance(whole, patch_pixels=PATCH, num_prefix_tokens=1)
    assert with_token.tolist() == pytest.approx(
        (attention_distance(uniform(SIDE**2), patch_pixels=PATCH)[:1] / 2).tolist()
    )


def test_rollout_of_identity_attention_is_the_identity() -> None:
    here = [torch.eye(SIDE**2 + 1).expand(2, 3, -1, -1)] * 4
    assert rollout(here, num_prefix_tokens=1).abs().max() == 0.0  # the class token has seen itself only
    even = rollout([matrix[..., 1:, 1:] for matrix in here])
    torch.testing.assert_close(even, torch.full((2, SIDE, SIDE), 1 / SIDE**2, dtype=torch.float64))


def test_rollout_multiplies_first_to_last() -> None:
    """The class token looks at patch 1 in the last layer, which has looked at patch 2 in the first."""
    first, last = torch.eye(5), torch.eye(5)
    first[2], last[0] = torch.eye(5)[3], torch.eye(5)[2]
    seen = rollout([first[None, None], last[None, None]], num_prefix_tokens=1)
    assert seen.flatten().tolist() == [0.0, 0.25, 0.25, 0.0]


def test_masks_reach_from_zero_to_one() -> None:
    mask = as_mask(torch.rand(2, SIDE, SIDE, dtype=torch.float64), 40)
    assert mask.shape == (2, 40, 40)
    assert mask.amin(dim=(1, 2)).tolist() == [0.0, 0.0] and mask.amax(dim=(1, 2)).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("changes", [{}, {"pooling": "gap"}, {"position": "relative", "position_at": "every"}], ids=str)
def test_attention_is_what_the_network_computes(changes: dict[str, str]) -> None:
    """Rows sum to one, and values weighted by it are what the block's attention gives."""
    config = dataclasses.replace(TINY, **changes)
    torch.manual_seed(0)
    model = ViT(config, 3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    inner: list[Tensor] = []
    block = model.blocks[-1].attn
    block.proj.register_forward_pre_hook(lambda _, arguments: inner.append(arguments[0].detach()))
    block.register_forward_pre_hook(lambda _, arguments: inner.append(arguments[0].detach()))
    layers = attention(model, torch.randn(2, 3, config.resolution, config.resolution))
    assert len(layers) == config.depth
    for layer in layers:
        assert layer.shape == (2, config.num_heads, config.num_tokens, config.num_tokens)
        torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:-1]))
    x, heads = inner
    with torch.no_grad():
        values = block.qkv(x).chunk(3, dim=2)[2].unflatten(2, (config.num_heads, -1)).transpose(1, 2)
    torch.testing.assert_close((layers[-1] @ values).transpose(1, 2).flatten(2), heads, atol=1e-5, rtol=1e-5)
    assert not block._forward_hooks


def test_filters_are_those_that_were_planted() -> None:
    config = TINY
    model = ViT(config, 3)
    side = config.patch_size
    planted = torch.linalg.qr(torch.randn(side * side * 3, 2)).Q.T
    amounts = torch.randn(config.width, 2) * torch.tensor([3.0, 1.0])
    weight = (amounts @ planted).reshape(config.width, side, side, 3).permute(0, 3, 1, 2)
    model.patch_embed.proj.weight.data = weight.contiguous()
    components, share = filter_components(model, 4)
    assert components.shape == (4, side, side, 3)
    assert float(share[:2].sum()) == pytest.approx(1.0) and share[0] > share[1]
    inside = components[:2].flatten(1).float() @ planted.T
    torch.testing.assert_close(inside.square().sum(1), torch.ones(2), atol=1e-4, rtol=0)


def test_positions_are_like_themselves() -> None:
    model = ViT(TINY, 3)
    found = position_similarity(model)
    grid = TINY.grid
    assert found.shape == (grid,) * 4
    diagonal = found.reshape(grid**2, grid**2).diagonal()
    torch.testing.assert_close(diagonal, torch.ones(grid**2, dtype=torch.float64))
    with pytest.raises(ValueError, match="nothing to compare"):
        position_similarity(ViT(dataclasses.replace(TINY, position="none"), 3))


def test_a_few_images_at_a_time_are_as_good_as_all_at_once(tmp_path: Path) -> None:
    model = ViT(TINY, 3)
    images = torch.randn(SHOWN + 3, 3, TINY.resolution, TINY.resolution)
    analyse(model, images, tmp_path)
    found = pq.read_table(tmp_path / "attention_distance.parquet").to_pydict()["pixels"]
    whole = [
        attention_distance(layer, patch_pixels=TINY.patch_pixels, num_prefix_tokens=1)
        for layer in attention(model, images)
    ]
    np.testing.assert_allclose(found, torch.cat(whole).numpy(), rtol=1e-6)
    assert pq.read_table(tmp_path / "rollout.parquet").num_rows == SHOWN
