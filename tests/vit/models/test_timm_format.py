"""timm's format without timm: what is read from names and shapes, what is refused, and how config.json is written."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.vit.models.weights_toys import V2, filled, hybrid, resnet, vit
from vit.models.variants import configure
from vit.models.weights import BadCheckpoint, files, inspect, native, timm, timm_hub
from vit.models.weights.checkpoint import Checkpoint, checked, skeleton

V2_HERE = V2 | {"standardize_eps": 1e-8}
STEM_HERE: dict[str, Any] = {
    "flavour": "v1",
    "group_norm_eps": 1e-5,
    "standardize_eps": 1e-8,
    "standardize_eps_on": "variance",
}

KEYS = st.sampled_from(
    ["num_heads", "act_layer", "img_size", "proj_drop_rate", "input_size", "mean", "label_names", "a"]
)
JSON = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
STATE = filled(vit(), 3).state


@pytest.mark.parametrize("name", ["Ti/16", "S/32", "B/16", "L/32", "H/14"])
@pytest.mark.parametrize("pooling", ["tok", "map"])
def test_heads_of_variants_are_known(name: str, pooling: str) -> None:
    config = configure(name, 224, pooling=pooling, gelu="erf")
    assert timm.parse(skeleton(config, 10)).config == config


@pytest.mark.parametrize(
    "config",
    [
        vit(gelu="erf", pooling="gap"),
        vit(gelu="erf", representation=True, resolution=20),
        hybrid((1, 2), gelu="erf", stem=resnet((1, 2), 16, **STEM_HERE), resolution=16),
        hybrid((), gelu="erf", stem=resnet((), 16, **STEM_HERE), resolution=16, patch_size=2),
        resnet((1, 2), 224, **V2_HERE),
        resnet((2,), 224, **STEM_HERE),
    ],
)
def test_toys_are_read_from_names_and_shapes(config: Any) -> None:
    checkpoint = filled(config, 5)
    settings = {"num_heads": 2} if config.family == "vit" else {}
    found = checked(timm.parse(checkpoint.state, **settings))
    assert (found.config, found.num_classes) == (config, 5)
    assert all(found.state[name] is tensor for name, tensor in checkpoint.state.items())
    assert timm.claims(checkpoint.state)


def test_other_names_are_not_claimed() -> None:
    assert not timm.claims({"patch_embed.proj.weight": 0, "layers.0.blocks.0.norm1.weight": 0})  # Swin
    assert not timm.claims({"stem.conv1.weight": 0, "stages.0.blocks.0.conv1.weight": 0})  # ResNet-D


def test_settings_overrule_and_unknown_ones_are_named() -> None:
    state = filled(vit(), 3).state
    config = timm.parse(state, num_heads=4, gelu="tanh", layer_norm_eps=1e-5, dropout=0.1).config
    assert config == vit(num_heads=4, gelu="tanh", layer_norm_eps=1e-5, dropout=0.1)
    with pytest.raises(ValueError, match=r"no setting 'num_haeds'.*'num_heads'"):
        timm.parse(state, num_heads=2, num_haeds=2)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [(vit(), "width 16 .* pass num_heads"), (vit(width=768, num_heads=16, pooling="gap"), "768")],
)
def test_heads_that_nothing_tells_are_asked_for(config: Any, sentence: str) -> None:
    with pytest.raises(BadCheckpoint, match=sentence):
        timm.parse(skeleton(config, 3))


def test_position_table_that_is_not_square() -> None:
    state = dict(filled(vit(pooling="gap", resolution=16), 3).state)
    state["pos_embed"] = torch.randn(1, 6, 16)
    with pytest.raises(BadCheckpoint, match=r"6 patches, no grid of 2 x 2; pass grid="):
        timm.parse(state, num_heads=2)
    found = checked(timm.parse(state, num_heads=2, grid=(2, 3)))
    assert (found.config.resolution, found.state["pos_embed"].shape[1]) == (12, 9)
    assert any("2 x 3 patches were resized to 3 x 3" in note for note in found.notes)
    assert timm.parse(state, num_heads=2, grid=(2, 3), resolution=8).state["pos_embed"].shape[1] == 4


def test_class_token_without_position_gets_zeros() -> None:
    config = vit(gelu="erf")
    state = dict(filled(config, 3).state)
    patches = state["pos_embed"] = state["pos_embed"][:, 1:]
    found = checked(timm.parse(state, num_heads=2))
    assert found.config == config
    assert torch.equal(found.state["pos_embed"], torch.cat([torch.zeros(1, 1, 16), patches], dim=1))


def test_absent_positions_are_missing_unless_told() -> None:
    config = vit(position="none", gelu="erf")
    state = filled(config, 3).state
    for told in ({}, {"resolution": 8}):
        with pytest.raises(BadCheckpoint, match="1 missing: pos_embed"):
            checked(timm.parse(state, num_heads=2, **told))
    assert checked(timm.parse(state, num_heads=2, resolution=8, position="none")).config == config


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("blocks.0.ls1.gamma", "LayerScale"),
        ("reg_token", "register tokens"),
        ("blocks.1.attn.q_norm.weight", "normalised queries and keys"),
        ("fc_norm.weight", "a norm after pooling"),
        ("head_dist.weight", "a distillation token"),
        ("blocks.0.norm1.running_mean", "BatchNorm"),
    ],
)
def test_relatives_are_named(key: str, what: str) -> None:
    with pytest.raises(BadCheckpoint, match=rf"has {what}.* \({key}\): no network of the ViT paper does"):
        timm.parse(filled(vit(), 3).state | {key: torch.zeros(3)}, num_heads=2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"blocks.999999999.norm1.weight": torch.zeros(1)}, "names count up to 999999999 with 33 tensors"),
        ({"patch_embed.proj.weight": torch.zeros(16)}, r"1 mis-shaped: patch_embed.proj.weight is \[16\]"),
        ({"mask_token": torch.zeros(1)}, "1 unknown: mask_token"),
        ({"norm.bias": torch.zeros(3), "extra": torch.zeros(1)}, r"1 unknown: extra; 1 mis-shaped: norm.bias is \[3\]"),
    ],
)
def test_damaged_files_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadCheckpoint, match=sentence):
        checked(timm.parse(filled(vit(), 3).state | change, num_heads=2))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (vit(representation=True), "dropped the representation layer"),
        (vit(position="2d"), "not '2d' at 'stem'"),
        (vit(position_at="every"), "not 'learned' at 'every'"),
        (vit(position="sincos2d"), "not 'sincos2d'"),
    ],
)
def test_what_timm_has_not_is_not_written(config: Any, sentence: str) -> None:
    with pytest.raises(BadCheckpoint, match=sentence):
        timm.emit(filled(config, 3))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (hybrid((1,)), r"no hybrid whose ResNet has \(1,\) units"),
        (resnet((1, 2), 32, **V2), r"no BiT of flavour v2 with \(1, 2\) units"),
        (resnet((3, 4), 32), "no BiT of flavour v1"),
    ],
)
def test_what_timm_cannot_build_is_no_directory(config: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=sentence):
        timm.write(filled(config, 3), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    timm.write(filled(config, 3), tmp_path / "out.safetensors")
    assert inspect(tmp_path / "out.safetensors").config == config


def test_notes_say_what_timm_computes_otherwise(tmp_path: Path) -> None:
    config = configure("R26+S/32", 32, depth=1)
    notes = timm.write(
        Checkpoint(config=config, num_classes=0, state=filled(config, 0).state, origin=""), tmp_path / "o"
    )
    assert notes == [
        "timm's GroupNorm has eps 1e-05, this network 1e-06",
        "timm standardises weights with eps 1e-08 on the variance, this network with 1e-05 on the std",
    ]
    assert timm_hub.differences(vit(layer_norm_eps=1e-12)) == ["timm's LayerNorm has eps 1e-06, this network 1e-12"]


def test_files_of_weights_alone(tmp_path: Path) -> None:
    checkpoint = filled(vit(), 3)
    timm.write(checkpoint, tmp_path / "a.pth")
    timm.write(checkpoint, tmp_path / "b.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    found = files.read_tensors(tmp_path / "a.pth")
    assert found.keys() == checkpoint.state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in checkpoint.state.items())
    timm.write(checkpoint, tmp_path / "a.safetensors")
    assert native.read(tmp_path / "a.safetensors").config == checkpoint.config


def test_directory_is_whole_deterministic_and_never_overwritten(tmp_path: Path) -> None:
    for name in ("a", "b"):
        timm.write(filled(vit(), 3), tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
    assert all(path.read_bytes() == (tmp_path / "b" / path.name).read_bytes() for path in (tmp_path / "a").iterdir())
    with pytest.raises(BadCheckpoint, match="exists and is not empty"):
        timm.write(filled(vit(), 3), tmp_path / "a")


def test_config_beside_a_file_is_read(tmp_path: Path) -> None:
    torch.save(filled(vit(), 3).state, tmp_path / "weights.pth")
    description = {"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 4, "act_layer": "gelu_tanh"}}
    (tmp_path / "config.json").write_text(json.dumps(description | {"label_names": ["a", "b", "c"]}))
    found = inspect(tmp_path / "weights.pth")
    assert (found.config, found.class_names) == (vit(num_heads=4), ("a", "b", "c"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("[1]", "holds list where an object was expected"),
        ("{", "is not valid JSON"),
        ('{"pretrained_cfg": {}}', "names no architecture"),
        ('{"architecture": "vit", "model_args": {"norm_layer": "rmsnorm"}}', "norm_layer 'rmsnorm'"),
        ('{"architecture": "vit", "global_pool": "max"}', "global_pool 'max'"),
        ('{"architecture": "vit", "model_args": 3}', "a field of a wrong type"),
    ],
)
def test_broken_config_is_one_sentence(values: str, sentence: str, tmp_path: Path) -> None:
    timm.write(filled(vit(), 3), tmp_path / "a")
    (tmp_path / "a" / "config.json").write_text(values)
    with pytest.raises(BadCheckpoint, match=sentence):
        inspect(tmp_path / "a")


@given(st.sampled_from(["model_args", "pretrained_cfg", "label_names", "global_pool"]), JSON)
def test_config_of_any_form_is_understood_or_one_sentence(field: str, value: Any) -> None:
    values = {"architecture": "vit_tiny_patch16_224", field: value}
    with contextlib.suppress(BadCheckpoint):
        timm.parse(STATE, told=timm_hub.told(values), num_heads=2)


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("vit_base_patch16_gap_224", {"num_heads": 16}),
        ("vit_base_patch32_siglip_gap_256", {"num_heads": 12, "gelu": "tanh"}),
        ("vit_so400m_patch14_siglip_384", {"num_heads": 16}),
        ("vit_so400m_patch16_siglip_gap_384", {"num_heads": 16, "gelu": "tanh"}),
        ("vit_large_patch16_siglip_512", {"gelu": "tanh"}),
        ("vit_large_patch16_siglip_384", {}),
    ],
)
def test_entry_points_that_differ_from_their_width(architecture: str, fields: dict[str, Any]) -> None:
    assert timm_hub.told({"architecture": architecture}).fields == fields


def test_pixels_of_other_means_are_noted() -> None:
    notes = timm_hub.told({"architecture": "deit", "pretrained_cfg": {"mean": [0.485, 0.456, 0.406]}}).notes
    assert any("mean [0.485, 0.456, 0.406]" in note for note in notes)


@given(st.integers(1, 6000), st.integers(1, 1700))
def test_mlp_ratio_gives_the_same_width_after_timm_has_rounded(mlp_dim: int, width: int) -> None:
    config = vit(width=width, num_heads=1, mlp_dim=mlp_dim)
    described = timm_hub.description(Checkpoint(config=config, num_classes=1, state={}, origin=""))
    assert int(width * described["model_args"]["mlp_ratio"]) == mlp_dim
