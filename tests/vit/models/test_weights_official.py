"""The authors' files: golden logits, every released spelling, and there and back for random networks."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vit.models
from tests.vit.models.weights_toys import V2, filled, hybrid, resnet, same, vits
from tests.vit.models.weights_toys import vit as toy
from vit.models.build import build
from vit.models.resnet import ResNetConfig
from vit.models.vit import ViT, ViTConfig
from vit.models.weights import big_vision, bit, files, npz
from vit.models.weights.checkpoint import BadCheckpoint, instantiate

GOLDEN = Path(__file__).parents[2] / "golden" / "vit_official_npz.npz"
LINEN = {
    "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3": "MlpBlock_0",
}


@pytest.mark.parametrize(
    ("resolution", "images", "logits"), [(None, "images_nhwc", "logits"), (48, "images_hires_nhwc", "logits_hires")]
)
def test_logits_equal_the_authors(resolution: int | None, images: str, logits: str) -> None:
    io = np.load(GOLDEN.with_suffix(".io.npz"))
    model = vit.models.load(GOLDEN, resolution=resolution)
    assert not model.training and model.config.resolution == (resolution or 32)
    with torch.no_grad():
        ours = model(torch.from_numpy(io[images]).permute(0, 3, 1, 2))
    torch.testing.assert_close(ours, torch.from_numpy(io[logits]), rtol=1e-5, atol=1e-5)


def test_everything_is_found_from_keys_and_shapes() -> None:
    found = vit.models.inspect(GOLDEN)
    sizes = {"resolution": 32, "patch_size": 8, "width": 32, "depth": 3, "num_heads": 4, "mlp_dim": 64}
    assert found.config == toy(**sizes)
    assert (found.num_classes, found.origin) == (7, "official .npz, old names")


@given(config=vits(), num_classes=st.integers(0, 3), seed=st.integers(0, 9))
def test_official_layout_there_and_back_is_the_identity(config: ViTConfig, num_classes: int, seed: int) -> None:
    checkpoint = filled(config, num_classes, seed)
    assert same(npz.parse(npz.emit(checkpoint)), checkpoint)


@given(
    config=st.builds(
        lambda config, pooling: dataclasses.replace(config, pooling=pooling),
        vits(),
        st.sampled_from(["tok", "gap", "map"]),
    ),
    num_classes=st.integers(0, 3),
    scanned=st.booleans(),
)
def test_big_vision_there_and_back_is_the_identity(config: ViTConfig, num_classes: int, scanned: bool) -> None:
    checkpoint = filled(config, num_classes)
    if config.pooling == "tok":
        checkpoint.state["pos_embed"][:, 0] = 0
    tensors = big_vision.emit(checkpoint)
    assert tensors["params/pos_embedding"].shape[1] == config.grid**2
    tensors = scan(tensors, config.depth) if scanned else tensors
    assert big_vision.claims(tensors) and not npz.claims(tensors)
    assert same(big_vision.parse(tensors), checkpoint)


@settings(max_examples=6)
@given(
    layers=st.sampled_from([(), (1,), (2,), (1, 1)]), pooling=st.sampled_from(["tok", "gap"]), classes=st.integers(0, 2)
)
def test_hybrids_there_and_back_are_the_identity(layers: tuple[int, ...], pooling: str, classes: int) -> None:
    checkpoint = filled(hybrid(layers, pooling=pooling), classes)
    assert same(npz.parse(npz.emit(checkpoint)), checkpoint)


@pytest.mark.parametrize("numerics", [{}, V2])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_resnets_there_and_back_are_the_identity(numerics: dict[str, Any], num_classes: int) -> None:
    checkpoint = filled(resnet((1, 2), 64, **numerics), num_classes)
    tensors = bit.emit(checkpoint)
    assert bit.claims(tensors) and not npz.claims(tensors)
    assert same(bit.parse(tensors, resolution=64), checkpoint)
    assert "224 is assumed" in bit.parse(tensors).notes[0]


def linen(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {re.sub("|".join(LINEN), lambda match: LINEN[match[0]], name): tensor for name, tensor in tensors.items()}


def optimiser(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"opt/target/{name}": tensor for name, tensor in tensors.items()} | {"opt/state/step": torch.tensor(7)}


def encoder_table(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("posembed_input/", ""): tensor for name, tensor in linen(tensors).items()}


def tower(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"params/img/{name}": tensor for name, tensor in tensors.items()} | {"params/t": torch.ones(1)}


def group_norms_of_four_axes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor[None, None, None] if re.search(r"gn(\d|_root|_proj)/", name) else tensor
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("spelling", [linen, optimiser, encoder_table, tower, group_norms_of_four_axes])
def test_every_spelling_reads_the_same(
    spelling: Callable[[dict[str, Tensor]], dict[str, Tensor]], tmp_path: Path
) -> None:
    checkpoint = filled(hybrid(representation=True), 3)
    tensors = spelling(npz.emit(checkpoint))
    files.write_npz(tmp_path / "a.npz", tensors)
    found = vit.models.inspect(tmp_path / "a.npz")
    assert same(found, checkpoint)
    assert any("left out" in note for note in found.notes) == (spelling in (optimiser, tower))


def scan(tensors: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Blocks stacked along a first axis."""
    block = "params/Transformer/encoderblock"
    flat = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{block}_")}
    leaves = [name.removeprefix(f"{block}_0/") for name in tensors if name.startswith(f"{block}_0/")]
    return flat | {
        f"{block}/{leaf}": torch.stack([tensors[f"{block}_{number}/{leaf}"] for number in range(depth)])
        for leaf in leaves
    }


def test_table_with_a_row_for_the_class_token_at_the_top() -> None:
    """As big_vision wrote until 2022."""
    checkpoint = filled(vit_toy := toy(), 3)
    tensors = linen(npz.emit(checkpoint))
    tensors["pos_embedding"] = tensors.pop("Transformer/posembed_input/pos_embedding")
    assert big_vision.claims(tensors)
    assert big_vision.parse(tensors).config == vit_toy
    assert same(big_vision.parse(tensors), checkpoint)


def test_a_class_tokens_own_position_moves_into_the_token() -> None:
    checkpoint = filled(toy(), 3)
    moved = big_vision.parse(big_vision.emit(checkpoint))
    assert moved.state["pos_embed"][:, 0].abs().max() == 0
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(instantiate(moved)(images), instantiate(checkpoint)(images))


def test_absent_table_is_sincos2d_in_big_vision_and_missing_in_old_files() -> None:
    fixed = filled(toy(position="sincos2d", pooling="gap", resolution=224), 3)
    found = big_vision.parse(big_vision.emit(fixed))
    assert same(found, fixed) and "224 is assumed" in found.notes[0]
    assert found.state.keys() == build(found.config, 3).state_dict().keys()
    network = instantiate(found)
    assert isinstance(network, ViT) and network.pos_embed is not None
    assert not network.pos_embed.is_meta and network.pos_embed.abs().max() > 0.9
    none = filled(toy(position="none"), 3)
    assert same(npz.parse(npz.emit(none), position="none", resolution=8), none)
    with pytest.raises(BadCheckpoint, match="1 missing: Transformer/posembed_input/pos_embedding"):
        npz.parse(npz.emit(none), resolution=8)
    assert npz.parse(linen(npz.emit(none)), position="none", resolution=8).config == none.config


def test_bit_with_numbered_convolutions_reads_the_same() -> None:
    checkpoint = filled(resnet((1, 1), 64, **V2), 2)
    numbered = {
        name.replace("standardized_conv2d/", f"standardized_conv2d_{number}/"): tensor
        for number, (name, tensor) in enumerate(bit.emit(checkpoint).items())
    }
    assert bit.claims(numbered)
    assert same(bit.parse(numbered, resolution=64), checkpoint)
    with pytest.raises(BadCheckpoint, match="twice"):
        bit.parse(numbered | bit.emit(checkpoint))


def test_oblong_table_needs_its_grid_and_is_resized(tmp_path: Path) -> None:
    tensors = npz.emit(filled(toy(), 3))
    tensors["Transformer/posembed_input/pos_embedding"] = torch.randn(1, 1 + 2 * 3, 16)
    files.write_npz(path := tmp_path / "oblong.npz", tensors)
    with pytest.raises(BadCheckpoint, match=r"6 patches of no square grid; pass grid=\(rows, columns\)"):
        vit.models.load(path)
    with pytest.raises(BadCheckpoint, match="no grid of 2 x 2"):
        vit.models.load(path, grid=(2, 2))
    model = vit.models.load(path, grid=(2, 3), resolution=12)
    assert model.config.resolution == 12 and model.get_parameter("pos_embed").shape == (1, 10, 16)


def test_faults_are_listed_together_by_the_files_own_names(tmp_path: Path) -> None:
    tensors = optimiser(linen(npz.emit(filled(toy(), 3))))
    block = "opt/target/Transformer/encoderblock_1"
    del tensors[f"{block}/LayerNorm_1/scale"]
    del tensors["opt/target/head/kernel"]
    tensors[f"{block}/MlpBlock_0/Dense_0/bias"] = torch.zeros(5)
    tensors["opt/target/surprise"] = torch.zeros(5)
    tensors["opt/target/cls"] = torch.zeros(1, 1, 16, dtype=torch.int32)
    files.write_npz(path := tmp_path / "bad.npz", tensors)
    with pytest.raises(BadCheckpoint) as caught:
        vit.models.inspect(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text
    assert "1 unknown: opt/target/surprise;" in text
    assert f"2 missing: {block}/LayerNorm_1/scale, opt/target/head/kernel;" in text
    assert f"1 mis-shaped: {block}/MlpBlock_0/Dense_0/bias is [5], not [24];" in text
    assert "1 not of floating-point numbers: opt/target/cls is int32)" in text


def test_scanned_blocks_of_unequal_depth_are_named() -> None:
    tensors = scan(big_vision.emit(filled(toy(pooling="gap"), 3)), 2)
    name = "params/Transformer/encoderblock/LayerNorm_0/scale"
    with pytest.raises(BadCheckpoint, match=re.escape(f"mis-shaped are {name} [3, 16]")):
        big_vision.parse(tensors | {name: torch.zeros(3, 16)})


def test_a_number_that_no_file_can_have_is_refused_at_once() -> None:
    tensors = npz.emit(filled(toy(), 3)) | {"Transformer/encoderblock_999999999/x": torch.zeros(1)}
    with pytest.raises(BadCheckpoint, match="1000000000 encoder blocks"):
        npz.parse(tensors)
    tensors = bit.emit(filled(resnet((1,), 64, **V2), 3)) | {"resnet/block999999999/unit01/x": torch.zeros(1)}
    with pytest.raises(BadCheckpoint, match="names block 999999999"):
        bit.parse(tensors)


@pytest.mark.parametrize(
    ("config", "module"),
    [
        (toy(pooling="map"), npz),
        (toy(position="2d"), npz),
        (toy(position_at="every"), npz),
        (hybrid(), big_vision),
        (toy(position="none"), big_vision),
        (toy(), bit),
        (resnet((1,), 64), npz),
        (resnet((1,), 64), big_vision),
    ],
)
def test_what_a_format_cannot_express_is_refused(config: ViTConfig | ResNetConfig, module: ModuleType) -> None:
    with pytest.raises(BadCheckpoint, match=r"; write "):
        module.emit(filled(config, 2))
