"""Hugging Face's format without transformers: names, config.json, shards, and what is refused."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from tests.vit.models.weights_toys import V2, filled, hybrid, resnet, vit
from vit.models.weights import BadCheckpoint, huggingface, huggingface_config, inspect
from vit.models.weights.checkpoint import Checkpoint, checked

V2_HERE = V2 | {"standardize_eps": 1e-8}
BIT = {"model_type": "bit", "depths": [1, 2], "hidden_sizes": [256, 512]}
JSON = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "height", "size"]), inner, max_size=3)
    ),
    max_leaves=5,
)
TENSORS = huggingface.emit(filled(vit(), 3))
BIT_TENSORS = huggingface.emit(filled(resnet((1, 2), 64, **V2_HERE), 3))
DESCRIPTION = huggingface_config.description(filled(vit(), 3), "ViTForImageClassification", "float32")
DESCRIPTION |= {"preprocessor": huggingface_config.preprocessing(8)}
TOYS = [(vit(), 3), (vit(gelu="erf", layer_norm_eps=1e-12, dropout=0.1), 0), (vit(representation=True), 0)]
BITS = [(resnet((1, 2), 64, **V2_HERE), 3), (resnet((2,), 64, **V2_HERE), 0)]


@pytest.mark.parametrize(("config", "num_classes"), TOYS + BITS)
def test_there_and_back(config: Any, num_classes: int, tmp_path: Path) -> None:
    checkpoint = filled(config, num_classes)
    assert huggingface.write(checkpoint, tmp_path / "a") == []
    assert huggingface.claims(tmp_path / "a")
    found = checked(huggingface.read(tmp_path / "a"))
    assert (found.config, found.num_classes) == (config, num_classes)
    assert all(torch.equal(found.state[name], tensor) for name, tensor in checkpoint.state.items())
    huggingface.write(found, tmp_path / "b")
    assert all(path.read_bytes() == (tmp_path / "b" / path.name).read_bytes() for path in (tmp_path / "a").iterdir())


def test_names_of_release_5_are_the_same_tensors(tmp_path: Path) -> None:
    huggingface.write(filled(vit(), 3), tmp_path / "a")
    before = huggingface.read(tmp_path / "a")
    tensors = {_new_name(name): tensor for name, tensor in huggingface.emit(before).items()}
    assert {"vit.layers.1.attention.q_proj.bias", "vit.layers.0.mlp.fc2.weight"} <= tensors.keys()
    save_file(tensors, tmp_path / "a" / "model.safetensors")
    after = huggingface.read(tmp_path / "a")
    assert all(torch.equal(after.state[name], tensor) for name, tensor in before.state.items())


def _new_name(name: str) -> str:
    for old, new in {
        "encoder.layer": "layers",
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }.items():
        name = name.replace(old, new)
    return name


def test_queries_keys_and_values_keep_their_order() -> None:
    checkpoint = filled(vit(), 3)
    tensors = huggingface.emit(checkpoint)
    fused = checkpoint.state["blocks.1.attn.qkv.weight"]
    for index, part in enumerate(("query", "key", "value")):
        name = f"vit.encoder.layer.1.attention.attention.{part}.weight"
        assert torch.equal(tensors[name], fused[16 * index : 16 * (index + 1)])


def test_shards_and_their_index(tmp_path: Path) -> None:
    huggingface.write(filled(vit(), 3), tmp_path / "a")
    expected = huggingface.read(tmp_path / "a").state
    _shard(tmp_path / "a")
    found = inspect(tmp_path / "a").state
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("places", "sentence"),
    [
        ({"classifier.bias": "../a/1.safetensors"}, "names '../a/1.safetensors', which is not a file beside it"),
        ({"classifier.bias": "3.safetensors"}, "3.safetensors cannot be read"),
        ({"more": "1.safetensors"}, "index.json and its shards disagree about more"),
        ({"classifier.bias": 7}, "names '7', which|7 cannot be read"),
    ],
)
def test_broken_index_is_one_sentence(places: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    huggingface.write(filled(vit(), 3), tmp_path / "a")
    index = _shard(tmp_path / "a")
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"] | places}))
    with pytest.raises(BadCheckpoint, match=sentence):
        inspect(tmp_path / "a")


def _shard(directory: Path) -> Path:
    checkpoint = huggingface.read(directory)
    tensors = {name: tensor.clone() for name, tensor in huggingface.emit(checkpoint).items()}
    (directory / "model.safetensors").unlink()
    places: dict[str, str] = {}
    for number in (1, 2):
        shard: dict[str, Tensor] = {name: tensors[name] for name in sorted(tensors)[number - 1 :: 2]}
        save_file(shard, directory / f"{number}.safetensors")
        places |= dict.fromkeys(shard, f"{number}.safetensors")
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_unknown_missing_and_misshaped_keys_come_together(tmp_path: Path) -> None:
    huggingface.write(filled(vit(), 3), tmp_path / "a")
    tensors = huggingface.emit(huggingface.read(tmp_path / "a"))
    del tensors["vit.encoder.layer.0.attention.attention.key.bias"]
    tensors |= {"vit.layernorm.bias": torch.zeros(3), "vit.embeddings.mask_token": torch.zeros(1, 1, 16)}
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "a" / "model.safetensors")
    with pytest.raises(BadCheckpoint) as error:
        inspect(tmp_path / "a")
    for part in (
        "1 unknown: vit.embeddings.mask_token",
        "1 missing: vit.encoder.layer.0.attention.attention.key.bias",
        "1 mis-shaped: vit.layernorm.bias is [3], not [16]",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "deit"}, "model_type 'deit'; of Hugging Face's models we have vit and bit"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu'"),
        ({"image_size": [8, 16]}, r"image_size \[8, 16\]; our networks are square"),
        ({"num_channels": 1}, "num_channels 1; our networks have 3"),
        ({"pooler_act": "relu"}, "pooler_act 'relu'"),
        ({"hidden_size": "16"}, "hidden_size '16' where a number"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps must be a number"),
        ({"num_attention_heads": 3}, "width 16 is not a multiple of num_heads 3"),
        ({"num_hidden_layers": 10**9}, "more layers than there are tensors"),
        ({"num_hidden_layers": 3}, "16 missing: vit.encoder.layer.2"),
        ({"image_size": 12}, r"position_embeddings is \[1, 5, 16\], not \[1, 10, 16\]"),
        ({"model_type": "bit", "layer_type": "bottleneck"}, "layer_type 'bottleneck'"),
        (
            {"model_type": "bit", "hidden_act": "relu", "hidden_sizes": [1, 2]},
            r"hidden_sizes \[1, 2\] above embedding_size 64",
        ),
        ({"model_type": "bit", "hidden_act": "relu", "depths": 7}, "hidden_sizes"),
    ],
)
def test_config_that_is_not_ours_is_one_sentence(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    huggingface.write(filled(vit(), 3), tmp_path / "a")
    config = tmp_path / "a" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(BadCheckpoint, match=sentence):
        inspect(tmp_path / "a")


@given(st.sampled_from(sorted(DESCRIPTION | BIT)), JSON, st.booleans())
def test_config_of_any_form_is_understood_or_one_sentence(field: str, value: Any, is_bit: bool) -> None:
    values = (BIT if is_bit else DESCRIPTION) | {field: value}
    with contextlib.suppress(BadCheckpoint):
        huggingface.parse(BIT_TENSORS if is_bit else TENSORS, values)


def test_what_config_leaves_out_is_as_in_transformers() -> None:
    config = vit(width=24, num_heads=12, depth=12, mlp_dim=3072, resolution=224, patch_size=16, gelu="erf")
    tensors = huggingface.emit(filled(config, 0))
    found = huggingface.parse(tensors, {"model_type": "vit", "hidden_size": 24})
    assert (found.config.layer_norm_eps, found.config.gelu, found.config.num_heads) == (1e-12, "erf", 12)


def test_resolution_of_bit_is_the_image_processors(tmp_path: Path) -> None:
    tensors = huggingface.emit(filled(resnet((1, 2), 64, **V2_HERE), 3))
    assumed = huggingface.parse(tensors, BIT)
    assert (assumed.config.resolution, len(assumed.notes)) == (224, 1)
    processor = {"size": {"shortest_edge": 512}, "crop_size": {"height": 480, "width": 480}, "image_mean": [0, 0, 0]}
    told = huggingface.parse(tensors, BIT | {"preprocessor": processor})
    assert told.config.resolution == 480
    assert told.notes == ("it was trained with image_mean [0, 0, 0], while ours is 0.5 throughout",)


def test_pooler_under_a_classifier_is_refused(tmp_path: Path) -> None:
    huggingface.write(filled(vit(), 3), tmp_path / "a")
    tensors = huggingface.emit(huggingface.read(tmp_path / "a")) | {"vit.pooler.dense.weight": torch.zeros(16, 16)}
    with pytest.raises(BadCheckpoint, match="a pooler and a classifier that does not read it"):
        huggingface.parse(tensors, json.loads((tmp_path / "a" / "config.json").read_text()))


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (vit(pooling="gap"), "pooling 'gap'"),
        (vit(position="none"), "position 'none'"),
        (vit(position_at="shared"), "position 'learned' at 'shared'"),
        (vit(representation=True), "representation layer under a head"),
        (hybrid(), "hybrid"),
        (resnet((1,), 32), "ResNet of flavour v1"),
    ],
)
def test_what_hugging_face_has_not_is_not_written(config: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=f"have no {what}"):
        huggingface.write(filled(config, 3), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_note_says_what_transformers_computes_otherwise(tmp_path: Path) -> None:
    notes = huggingface.write(filled(resnet((1,), 64, **V2), 3), tmp_path / "a")
    assert notes == ["transformers computes with standardize_eps 1e-08, this network with 1e-10"]


def test_class_names_and_made_up_labels(tmp_path: Path) -> None:
    named = Checkpoint(config=vit(), num_classes=2, state=filled(vit(), 2).state, origin="", class_names=("a", "b"))
    huggingface.write(named, tmp_path / "a")
    assert inspect(tmp_path / "a").class_names == ("a", "b")
    huggingface.write(filled(vit(), 2), tmp_path / "b")
    assert inspect(tmp_path / "b").class_names == ()
    assert json.loads((tmp_path / "b" / "config.json").read_text())["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
