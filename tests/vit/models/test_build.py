"""Configs from plain values, networks from configs, and positions of every kind at another resolution."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from vit.models.build import ModelConfig, at_resolution, build, config_from_dict, resized
from vit.models.position import resize_pos_embed, table_2d
from vit.models.resnet import ResNet
from vit.models.variants import configure, names
from vit.models.vit import ViT, ViTConfig

SMALL = {"width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 8}
KINDS = [
    ("none", "stem"),
    ("learned", "stem"),
    ("learned", "every"),
    ("learned", "shared"),
    ("2d", "stem"),
    ("2d", "every"),
    ("2d", "shared"),
    ("relative", "every"),
    ("relative", "shared"),
    ("sincos2d", "stem"),
]


def small(resolution: int, **changes: Any) -> ViTConfig:
    config = configure("ViT-B/8", resolution, **{**SMALL, **changes})
    assert isinstance(config, ViTConfig)
    return config


def random_state(config: ModelConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = build(config, 3).state_dict()
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}


@pytest.mark.parametrize("name", [name for name in names() if not name.endswith("/14")])
def test_a_config_survives_json(name: str) -> None:
    config = configure(name, 224)
    assert config_from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"widht": 3}, "unknown field 'widht'; the nearest is 'width'"),
        ({"width": None}, "width must be a whole number, not None"),
        ({"width": True}, "width must be a whole number, not True"),
        ({"width": 16.0}, "width must be a whole number, not 16.0"),
        ({"dropout": "0.1"}, "dropout must be a number, not '0.1'"),
        ({"representation": 1}, "representation must be true or false, not 1"),
        ({"gelu": "exact"}, "gelu must be one of 'tanh', 'erf', not 'exact'"),
        ({"family": "mlp"}, "family must be 'vit' or 'resnet', not 'mlp'"),
        ({"stem": 3}, "stem must be null or the config of a ResNet, not 3"),
        ({"stem": {"layers": [1]}}, "model config: stem.family, stem.resolution, stem.width_factor"),
        ({"stem": {"layer": [1]}}, "unknown field 'stem.layer'; the nearest is 'layers'"),
        ({"num_heads": 3}, "width 16 is not a multiple of num_heads 3"),
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        config_from_dict({**dataclasses.asdict(small(32)), **change})
    assert sentence in str(caught.value)


def test_a_missing_field_is_named_and_whole_numbers_do_for_numbers() -> None:
    values = dataclasses.asdict(small(32))
    with pytest.raises(ValueError, match="depth, dropout missing"):
        config_from_dict({name: value for name, value in values.items() if name not in ("depth", "dropout")})
    config = config_from_dict({**values, "dropout": 0})
    assert isinstance(config, ViTConfig) and isinstance(config.dropout, float)


def test_build_knows_the_families() -> None:
    assert isinstance(build(small(32), 3), ViT)
    assert isinstance(build(configure("R50x1", 32, layers=[1]), 0), ResNet)
    with pytest.raises(ValueError, match="num_classes -1"):
        build(small(32), -1)


def test_at_resolution_takes_the_stem_along() -> None:
    hybrid = at_resolution(configure("R50+ViT-B/16", 224), 384)
    assert hybrid == configure("R50+ViT-B/16", 384)
    assert at_resolution(configure("R50x1", 224), 480) == configure("R50x1", 480)
    with pytest.raises(ValueError, match="not a multiple of patch_size 16"):
        at_resolution(configure("ViT-B/16", 224), 250)


@pytest.mark.parametrize("pooling", ["tok", "gap"])
@pytest.mark.parametrize(("position", "at"), KINDS)
@pytest.mark.parametrize("side", [16, 56])
def test_a_resized_state_fits_the_network(position: str, at: str, pooling: str, side: int) -> None:
    old = small(32, position=position, position_at=at, pooling=pooling)
    new, state = at_resolution(old, side), random_state(old)
    changed = resized(state, old, new)
    build(new, 3).load_state_dict(changed)
    tables = {name for name in state if name.startswith("pos_embed") or "relative" in name} - {"pos_embed_cls"}
    assert {name for name in state if changed[name] is not state[name]} == tables
    assert all(torch.isfinite(tensor).all() for tensor in changed.values())


@pytest.mark.parametrize(("position", "at"), KINDS)
def test_the_same_resolution_gives_the_same_tensors(position: str, at: str) -> None:
    config = small(40, position=position, position_at=at)
    state = random_state(config)
    assert all(tensor is state[name] for name, tensor in resized(state, config, config).items())


@pytest.mark.parametrize("method", ["official", "timm", "huggingface"])
def test_a_2d_table_is_resized_as_the_whole_table_would_be(method: Any) -> None:
    old = small(32, position="2d", position_at="every")
    new, state = at_resolution(old, 72), random_state(old)
    changed = resized(state, old, new, method)

    def whole(tensors: dict[str, Tensor]) -> Tensor:
        return table_2d(tensors["pos_embed_x"], tensors["pos_embed_y"], tensors["pos_embed_cls"])

    expected = resize_pos_embed(whole(state), new.grid, num_prefix_tokens=1, method=method)
    assert torch.allclose(whole(changed), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["official", "timm", "huggingface"])
def test_learned_tables_of_every_layer_are_resized_one_by_one(method: Any) -> None:
    old = small(32, position_at="every")
    new, state = at_resolution(old, 56), random_state(old)
    changed = resized(state, old, new, method)["pos_embed"]
    for layer in range(2):
        alone = resize_pos_embed(state["pos_embed"][layer : layer + 1], 7, num_prefix_tokens=1, method=method)
        assert torch.allclose(changed[layer : layer + 1], alone)
    assert torch.equal(changed[:, 0], state["pos_embed"][:, 0])


def offsets(config: ViTConfig) -> tuple[Tensor, Tensor]:
    """Rows and columns that every entry of a relative table stands for, in shares of the image."""
    last = config.num_tokens - 1
    offset = torch.arange(-last, last + 1, dtype=torch.float64)
    rows = (offset / config.grid).round()
    return rows / (config.grid - 1), (offset - rows * config.grid) / (config.grid - 1)


def test_a_relative_table_keeps_its_meaning_in_rows_and_columns() -> None:
    """A table linear in both comes out as the same function on the new grid, wherever the old one reaches."""
    old = small(40, position="relative", position_at="shared", pooling="gap")
    new = at_resolution(old, 88)
    state = random_state(old)
    rows, columns = offsets(old)
    state["relative"] = torch.stack([rows, columns] * 4, dim=1).float()
    changed = resized(state, old, new)["relative"].double()
    rows, columns = offsets(new)
    # Half a row is where "to the right" and "one row down, to the left" meet, and beyond the last row nothing is known.
    inside = (columns.abs() < 0.4) & (rows.abs() < 0.75)
    assert inside.sum() > 100
    assert torch.allclose(changed[inside, 0], rows[inside], atol=1e-6)
    assert torch.allclose(changed[inside, 1], columns[inside], atol=1e-6)


def test_positions_of_another_kind_cannot_be_resized() -> None:
    old, new = small(32), small(40, position="2d")
    with pytest.raises(ValueError, match="cannot resize positions between position 'learned' and '2d'"):
        resized(random_state(old), old, new)


def test_resnets_have_nothing_to_resize() -> None:
    old = configure("R50x1", 32, layers=[1])
    state = random_state(old)
    assert resized(state, old, at_resolution(old, 64)) == state
