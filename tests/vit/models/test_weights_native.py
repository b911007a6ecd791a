"""Our own format, and the doors: load, inspect and convert with every kind of network."""

import dataclasses
import errno
import json
import logging
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import vit.models
from tests.faults import faults
from tests.vit.models.weights_toys import V2, filled, hybrid, resnet, same
from tests.vit.models.weights_toys import vit as toy
from vit.models.build import Method, ModelConfig, build
from vit.models.position import resize_pos_embed
from vit.models.weights import Format, files, native
from vit.models.weights.checkpoint import BadCheckpoint, compare, instantiate, skeleton

GOLDEN = Path(__file__).parents[2] / "golden" / "vit_official_npz.npz"
NETWORKS: dict[str, ModelConfig] = {
    "tok": toy(representation=True),
    "map": toy(pooling="map", position="sincos2d"),
    "2d": toy(position="2d", position_at="every", dropout=0.1),
    "relative": toy(position="relative", position_at="every"),
    "shared": toy(position="relative", position_at="shared"),
    "none": toy(position="none", layer_norm_eps=1e-12, gelu="erf"),
    "hybrid": hybrid(()),
    "v1": resnet((1,), 32),
    "v2": resnet((1,), 32, **V2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_native_file_alone_rebuilds_any_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(NETWORKS[name], 3).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    native.save(path := tmp_path / "model.safetensors", model, class_names=["a", "b", "c"])
    loaded = vit.models.load(path)
    assert loaded.config == model.config and loaded.num_classes == 3
    assert not loaded.training and all(parameter.requires_grad for parameter in loaded.parameters())
    images = torch.randn(2, 3, model.config.resolution, model.config.resolution)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    assert vit.models.inspect(path).class_names == ("a", "b", "c")
    assert vit.models.inspect(tmp_path).config == model.config  # the directory of a stage works as well
    native.save(tmp_path / "again.safetensors", loaded, class_names=["a", "b", "c"])
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_loaded_weights_do_not_live_in_the_file(tmp_path: Path) -> None:
    native.write(path := tmp_path / "a.safetensors", filled(toy(), 3))
    model = vit.models.load(path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with path.open("r+b") as file:
        file.truncate(0)  # memory mapped from the file would now be a bus error
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_num_classes_decides_about_the_head(tmp_path: Path) -> None:
    checkpoint = filled(toy(representation=True), 3)
    native.write(path := tmp_path / "a.safetensors", checkpoint)
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = instantiate(checkpoint)(images)
        assert torch.equal(vit.models.load(path)(images), expected)
        assert torch.equal(vit.models.load(path, num_classes=3)(images), expected)
        other = vit.models.load(path, num_classes=5)
        assert other(images).shape == (2, 5) and other(images).abs().max() == 0
        assert other.config == dataclasses.replace(checkpoint.config, representation=False)
        assert torch.equal(vit.models.load(path, num_classes=0)(images), other.features(images))


def test_transfer_always_gives_a_new_head(tmp_path: Path) -> None:
    checkpoint = filled(toy(representation=True), 3)
    native.write(path := tmp_path / "a.safetensors", checkpoint)
    model = native.transfer(path, resolution=12, num_classes=3, dropout=0.1)
    assert model.config == dataclasses.replace(checkpoint.config, resolution=12, representation=False, dropout=0.1)
    assert model(torch.randn(2, 3, 12, 12)).abs().max() == 0
    resized = resize_pos_embed(checkpoint.state["pos_embed"], 3, num_prefix_tokens=1)
    assert torch.equal(model.get_parameter("pos_embed"), resized)
    native.write(path, filled(resnet((1,), 32), 3))
    assert native.transfer(path, resolution=48, num_classes=2, dropout=0.0)(torch.randn(1, 3, 48, 48)).shape == (1, 2)


def test_resize_follows_the_wanted_method(tmp_path: Path) -> None:
    checkpoint = filled(toy(), 3)
    native.write(path := tmp_path / "a.safetensors", checkpoint)
    methods: tuple[Method, ...] = ("official", "timm", "huggingface")
    for method in methods:
        expected = resize_pos_embed(checkpoint.state["pos_embed"], 4, num_prefix_tokens=1, method=method)
        assert torch.equal(vit.models.load(path, resolution=16, resize=method).get_parameter("pos_embed"), expected)
    with pytest.raises(ValueError, match="resize 'nearest' is none of 'official'"):
        vit.models.load(path, resize="nearest")
    with pytest.raises(ValueError, match="resolution 9 is not a multiple of patch_size 4"):
        vit.models.load(path, resolution=9)


def test_settings_overrule_the_file_and_misspelt_ones_are_named() -> None:
    expected = dataclasses.replace(vit.models.load(GOLDEN).config, gelu="erf")
    assert vit.models.load(GOLDEN, gelu="erf").config == expected
    with pytest.raises(ValueError, match="no setting 'gelo' for this file; the nearest is 'gelu'"):
        vit.models.load(GOLDEN, gelo="erf")
    with pytest.raises(BadCheckpoint, match=r"no possible network .*gelu"):
        vit.models.load(GOLDEN, gelu="relu")


@settings(max_examples=10)
@given(
    order=st.permutations(["native", "npz"]),
    classes=st.integers(0, 3),
    name=st.sampled_from(["tok", "gap", "v1", "v2"]),
)
def test_conversions_there_and_back_are_exact(
    order: list[Format], classes: int, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("weights")
    config = toy(pooling="gap") if name == "gap" else NETWORKS[name]
    checkpoint = filled(config, classes)
    native.write(folder / "start.safetensors", checkpoint)
    path = folder / "start.safetensors"
    steps: list[Format] = [*order, "native"]
    for step, to in enumerate(steps):
        vit.models.convert(path, to, folder / f"{step}", resolution=config.resolution)
        path = folder / f"{step}"
    assert same(vit.models.inspect(path), checkpoint)
    assert path.read_bytes() == (folder / "start.safetensors").read_bytes()


def test_the_released_file_survives_conversion_bit_for_bit(tmp_path: Path) -> None:
    vit.models.convert(GOLDEN, "native", tmp_path / "a.safetensors")
    assert vit.models.convert(tmp_path / "a.safetensors", "npz", tmp_path / "b.npz") == []
    theirs, ours = np.load(GOLDEN), np.load(tmp_path / "b.npz")
    assert set(theirs.files) == set(ours.files)
    assert all(np.array_equal(theirs[name], ours[name]) for name in theirs.files)


@pytest.mark.parametrize(
    ("to", "out", "file", "hints"),
    [
        ("timm", "a.pth", "a.pth", {}),
        ("timm", "a.pt", "a.pt", {}),
        ("npz", "a.npz", "a.npz", {}),
        ("timm", "a.safetensors", "a.safetensors", {}),
        ("timm", "a", "a", {}),
        ("timm", "a", "a/model.safetensors", {}),  # with config.json beside
        ("hf", "a", "a", {}),
        ("hf", "a", "a/model.safetensors", {}),
    ],
)
def test_the_released_file_survives_other_formats(
    to: Format, out: str, file: str, hints: dict[str, Any], tmp_path: Path
) -> None:
    vit.models.convert(GOLDEN, to, tmp_path / out)
    assert same(vit.models.inspect(tmp_path / file, **hints), vit.models.inspect(GOLDEN))


def test_each_format_resizes_as_its_own_library_does(tmp_path: Path) -> None:
    table = vit.models.inspect(GOLDEN).state["pos_embed"]
    rows: list[tuple[Format, Method, dict[str, Any]]] = [("timm", "timm", {"num_heads": 4}), ("hf", "huggingface", {})]
    for to, method, hints in rows:
        out = tmp_path / to
        vit.models.convert(GOLDEN, to, out)
        if to == "timm":
            torch.save(files.read_tensors(out / "model.safetensors"), out := tmp_path / "a.pth")
        found = vit.models.inspect(out, resolution=48, **hints).state["pos_embed"]
        assert torch.equal(found, resize_pos_embed(table, 6, num_prefix_tokens=1, method=method))


def test_convert_says_what_is_lost(tmp_path: Path) -> None:
    config = hybrid((), gelu="erf", dropout=0.1)
    assert config.stem is not None
    stem = dataclasses.replace(config.stem, group_norm_eps=1e-5)
    checkpoint = dataclasses.replace(filled(dataclasses.replace(config, stem=stem), 2), class_names=("a", "b"))
    native.write(path := tmp_path / "a.safetensors", checkpoint)
    notes = vit.models.convert(path, "npz", tmp_path / "b.npz")
    assert notes[0] == "class names are kept for vitflow alone"
    assert [note.split()[0] for note in notes[1:]] == ["group_norm_eps", "gelu", "dropout"]
    back = vit.models.inspect(tmp_path / "b.npz")
    assert same(back, checkpoint) and back.class_names == checkpoint.class_names
    np.savez(tmp_path / "c.npz", **np.load(tmp_path / "b.npz"))  # NumPy drops what only we read
    assert vit.models.inspect(tmp_path / "c.npz").config == hybrid(())


def test_convert_refuses_what_cannot_be(tmp_path: Path) -> None:
    native.write(path := tmp_path / "a.safetensors", filled(NETWORKS["2d"], 2))
    with pytest.raises(BadCheckpoint, match=r"a.safetensors cannot be written as npz: .*positions '2d' at 'every'"):
        vit.models.convert(path, "npz", tmp_path / "b.npz")
    with pytest.raises(ValueError, match="there is no format 'onnx'; there are timm, hf, npz, native"):
        vit.models.convert(path, "onnx", tmp_path / "b.npz")  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "b.npz").exists()


def test_a_head_of_zeros_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = filled(toy(), 3)
    checkpoint.state["head.weight"].zero_()
    native.write(path := tmp_path / "a.safetensors", checkpoint)
    with caplog.at_level(logging.INFO, "vitflow.weights"):
        vit.models.load(path)
    assert "the head is all zeros" in caplog.text


def broken(path: Path, **changes: Any) -> None:
    """A native file whose description has other values."""
    checkpoint = filled(toy(), 3)
    description = {"version": 1, "config": dataclasses.asdict(checkpoint.config), "num_classes": 3, "class_names": []}
    description["evaluation"] = "centre"
    save_file(checkpoint.state, path, metadata={"vitflow": json.dumps(description | changes)})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, ""),
        ({"version": 2}, "version 2, this program knows 1; update it"),
        ({"config": {"family": "mlp"}}, "no possible network .*family"),
        ({"config": None}, "description is broken"),
        ({"evaluation": "oval"}, "its evaluation is 'oval', which is none of square, centre"),
        ({"num_classes": "many"}, "description is broken"),
        ({"num_classes": -1}, "-1 classes"),
        ({"num_classes": 4}, r"2 mis-shaped: head.weight is \[3, 16\], not \[4, 16\], head.bias is \[3\]"),
        ({"class_names": ["a"]}, "1 class names for a head of 3 classes"),
        ({"config": dataclasses.asdict(toy(depth=10**9))}, "1000000000 layers .* but there are 32 tensors"),
        ({"config": dataclasses.asdict(toy(width=2 * 10**18))}, "no memory holds the network"),
        ({"config": dataclasses.asdict(toy(position="none", resolution=4 * 10**9))}, "has 1000000000000000001 tokens"),
        ({"config": dataclasses.asdict(toy(depth=1))}, "12 unknown: blocks.1.attn.proj.bias, "),
        ({"config": dataclasses.asdict(toy(depth=2, pooling="gap"))}, "1 unknown: cls_token; 1 mis-shaped: pos_embed"),
    ],
)
def test_a_broken_description_is_one_sentence(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    broken(path := tmp_path / "a.safetensors", **changes)
    if not sentence:
        assert (native.read(path).num_classes, native.read(path).evaluation) == (3, "centre")
        return
    for door in (vit.models.load, native.read):
        with pytest.raises(BadCheckpoint, match=sentence) as caught:
            door(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_many_faults_are_counted_and_the_first_named() -> None:
    with pytest.raises(BadCheckpoint, match=r"56 missing: cls_token, .* and 16 more\)"):
        compare({}, skeleton(toy(depth=4), 3))


def test_doors_open_on_first_use_only() -> None:
    code = (
        "import sys, vit.models.vit, vit.models; before = 'vit.models.weights' in sys.modules; vit.models.load; "
        "print(before, 'vit.models.weights' in sys.modules, sorted(set(vit.models.__all__) - set(dir(vit.models))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False True []"
    assert vit.models.create("ViT-Ti/16", num_classes=2, resolution=16).num_classes == 2
    with pytest.raises(AttributeError, match=re.escape("module 'vit.models' has no attribute 'unload'")):
        _ = vit.models.unload


def test_an_error_of_the_disk_is_one_of_the_system(tmp_path: Path) -> None:
    """And not of safetensors, which nobody else knows. Here files may not be larger than a kilobyte."""

    def save() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(OSError, match="File too large") as told:
            files.save_safetensors(tmp_path / "x.safetensors", {"x": torch.zeros(10_000)}, {"format": "pt"})
        assert told.value.errno == errno.EFBIG

    assert faults.in_child(save) == 0
