"""Every single key of every format, missing, misspelt or mis-shaped: the error names it as the file spells it."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vit.models
from tests.vit.models.test_weights_official import linen, scan
from tests.vit.models.weights_toys import V2, filled, hybrid, resnet
from tests.vit.models.weights_toys import vit as toy
from vit.models.weights import BadCheckpoint, big_vision, bit, directory, files, huggingface, npz

Tensors = dict[str, Tensor]


def huggingface_directory(folder: Path) -> Path:
    huggingface.write(filled(toy(), 3), folder / "hf")
    return folder / "hf"


def timm(**fields: Any) -> Tensors:
    """Of a width whose heads are known."""
    return dict(filled(toy(width=192, num_heads=3, gelu="erf", **fields), 3).state)


FORMATS: dict[str, Callable[[], Tensors]] = {
    "official": lambda: npz.emit(filled(toy(representation=True), 3)),
    "linen": lambda: linen(npz.emit(filled(toy(), 3))),
    "mean of patches": lambda: npz.emit(filled(toy(pooling="gap"), 3)),
    "hybrid": lambda: npz.emit(filled(hybrid((1, 1), depth=1), 3)),
    "big_vision": lambda: big_vision.emit(filled(toy(pooling="map"), 3)),
    "scanned": lambda: scan(big_vision.emit(filled(toy(pooling="gap", depth=3), 3)), 3),
    "BiT": lambda: bit.emit(filled(resnet((1, 1), 64, **V2), 3)),
    "v1 ResNet": lambda: bit.emit(filled(resnet((1, 1), 64), 3)),
    "timm": timm,
    "timm, mean of patches": lambda: timm(pooling="gap"),
    "timm, MAP": lambda: timm(pooling="map"),
    "timm, hybrid": lambda: dict(filled(hybrid((1,), width=192, num_heads=3), 3).state),
    "timm, root alone": lambda: dict(filled(hybrid((), width=192, num_heads=3), 3).state),
    "timm, BiT": lambda: dict(filled(resnet((1, 1), 64, **V2), 3).state),
    "timm, v1 ResNet": lambda: dict(filled(resnet((1, 1), 64), 3).state),
}
# Where names are Linen's, no table means fixed sines, which big_vision never stores.
SINES = ("params/pos_embedding", "Transformer/posembed_input/pos_embedding")


def lacking(tensors: Tensors, key: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != key}


def misspelt(tensors: Tensors, key: str) -> Tensors:
    return {name + "_" * (name == key): tensor for name, tensor in tensors.items()}


def longer(tensors: Tensors, key: str) -> Tensors:
    tensor = tensors[key]
    return tensors | {key: torch.cat([tensor, tensor[..., :1]], dim=-1)}


def of_more_axes(tensors: Tensors, key: str) -> Tensors:
    return tensors | {key: tensors[key][None]}


@pytest.mark.parametrize("fault", [lacking, misspelt, longer, of_more_axes])
@pytest.mark.parametrize("name", FORMATS)
def test_a_fault_in_any_one_key_names_it(name: str, fault: Callable[[Tensors, str], Tensors], tmp_path: Path) -> None:
    tensors = FORMATS[name]()
    for key in tensors:
        if key in SINES and fault is lacking and name in ("linen", "big_vision", "scanned"):
            continue
        files.write_npz(path := tmp_path / "bad.npz", fault(tensors, key))
        with pytest.raises(BadCheckpoint) as caught:
            vit.models.inspect(path)
        text = str(caught.value)
        assert key in text and "\n" not in text, f"{key}: {text}"


def test_three_faults_anywhere_are_listed_in_one_error(tmp_path: Path) -> None:
    tensors = npz.emit(filled(toy(), 3))
    keys = list(tensors)
    for first, second, third in zip(
        keys, itertools.islice(keys, 7, None), itertools.islice(keys, 13, None), strict=False
    ):
        bad = longer(misspelt(lacking(tensors, first), second), third)
        files.write_npz(path := tmp_path / "bad.npz", bad)
        with pytest.raises(BadCheckpoint) as caught:
            vit.models.load(path)
        assert all(key in str(caught.value) for key in (first, f"{second}_", third)), str(caught.value)


def test_a_hugging_face_directory_names_its_faulty_keys(tmp_path: Path) -> None:
    folder = huggingface_directory(tmp_path)
    tensors = directory.read_weights(folder)
    for key, fault in itertools.product(tensors, (lacking, misspelt, longer)):
        if key == "classifier.weight" and fault is not longer:
            continue  # then it is a network without head whose bias is left over: named below
        bad = fault({name: tensor.clone() for name, tensor in tensors.items()}, key)
        files.write_safetensors(folder / "model.safetensors", bad, {})
        with pytest.raises(BadCheckpoint) as caught:
            vit.models.load(folder)
        assert key in str(caught.value), str(caught.value)
    files.write_safetensors(folder / "model.safetensors", lacking(tensors, "classifier.weight"), {})
    with pytest.raises(BadCheckpoint, match=r"1 unknown: classifier\.bias"):
        vit.models.load(folder)


def test_a_position_table_is_never_taken_for_absent(tmp_path: Path) -> None:
    tensors = npz.emit(filled(toy(), 3))
    table = "Transformer/posembed_input/pos_embedding"
    files.write_npz(path := tmp_path / "a.npz", lacking(tensors, table))
    with pytest.raises(BadCheckpoint, match=f"1 missing: {table}"):
        vit.models.load(path)
    assert vit.models.load(path, position="none", resolution=8).config.position == "none"


def test_where_kernel_and_bias_of_the_head_disagree_both_are_named(tmp_path: Path) -> None:
    tensors = npz.emit(filled(toy(), 3))
    for key, other in (("head/kernel", "head/bias"), ("head/bias", "head/kernel")):
        files.write_npz(path := tmp_path / "a.npz", longer(tensors, key))
        with pytest.raises(BadCheckpoint) as caught:
            vit.models.load(path)
        assert key in str(caught.value) and other in str(caught.value)
