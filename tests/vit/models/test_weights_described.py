"""What other formats do not say is kept where their readers do not look: networks survive every detour, bit for bit."""

import dataclasses
import itertools
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import vit.models
from tests.vit.models.weights_toys import V2, filled, hybrid, resnet, same
from tests.vit.models.weights_toys import vit as toy
from vit.models.build import ModelConfig
from vit.models.weights import BadCheckpoint, Format, files, native

NAMES = {"timm": ("a", "a.pth", "a.pt", "a.bin", "a.safetensors"), "hf": ("a",), "npz": ("a.npz",), "native": ("a",)}
PLACES: list[tuple[Format, str]] = [(to, name) for to in ("timm", "hf", "npz", "native") for name in NAMES[to]]  # pyright: ignore[reportAssignmentType]
ODD: dict[str, Any] = {"gelu": "erf", "layer_norm_eps": 1e-12, "dropout": 0.25}


@pytest.mark.parametrize(("to", "name"), PLACES)
@pytest.mark.parametrize("config", [toy(**ODD), toy(num_heads=4)], ids=["erf", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_format_gives_the_network_back(
    config: ModelConfig, to: Format, name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    start = filled(config, 3)
    start = dataclasses.replace(
        start,
        state={key: tensor.to(dtype) for key, tensor in start.state.items()},
        class_names=("emu", "ant", "bee"),
    )
    native.write(path := tmp_path / "start.safetensors", start)
    vit.models.convert(path, to, tmp_path / name)
    back = vit.models.inspect(tmp_path / name)
    assert same(back, start) and back.class_names == start.class_names


@pytest.mark.parametrize(
    "config",
    [
        toy(position="none"),
        toy(position="none", pooling="gap"),
        hybrid((1, 1), gelu="erf"),
        hybrid((), stem=resnet((), 8, **V2 | {"flavour": "v1"}), resolution=8),
        resnet((1,), 96, **V2 | {"standardize_eps": 1e-8}),
        resnet((1, 1), 96),
    ],
)
def test_npz_keeps_what_the_authors_code_fixes(config: ModelConfig, tmp_path: Path) -> None:
    start = filled(config, 2)
    native.write(path := tmp_path / "a.safetensors", start)
    vit.models.convert(path, "npz", tmp_path / "b.npz")
    assert same(vit.models.inspect(tmp_path / "b.npz"), start)
    loaded = vit.models.load(tmp_path / "b.npz", resolution=2 * config.resolution, num_classes=5)
    assert loaded.config.resolution == 2 * config.resolution and loaded.num_classes == 5


def test_logits_of_timm_survive_every_detour(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5).eval()
    torch.nn.init.normal_(theirs.head.weight)
    images = torch.randn(2, 3, 32, 32)
    torch.save(theirs.state_dict(), path := tmp_path / "timm.pth")
    with torch.no_grad():
        expected = theirs(images)
    for number, (to, name) in enumerate(itertools.chain(PLACES, PLACES[::-1])):
        out = tmp_path / str(number) / name
        vit.models.convert(path, to, out)
        path = out
        with torch.no_grad():
            torch.testing.assert_close(vit.models.load(path)(images), expected, rtol=0, atol=1e-5)
    vit.models.convert(path, "timm", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    theirs.load_state_dict(back, strict=True)
    assert all(torch.equal(tensor, back[key]) for key, tensor in theirs.state_dict().items())


def test_numpy_reads_a_described_archive(tmp_path: Path) -> None:
    native.write(path := tmp_path / "a.safetensors", filled(toy(), 3))
    vit.models.convert(path, "npz", out := tmp_path / "a.npz")
    with np.load(out) as arrays, zipfile.ZipFile(out) as archive:
        assert sorted(arrays.files) == sorted(name.removesuffix(".npy") for name in archive.namelist())
        assert json.loads(archive.comment.removeprefix(files.COMMENT))["config"]["gelu"] == "tanh"


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"version": 1}', b"\xff\xfe", b'{"version": 9}'])
def test_a_damaged_description_is_one_sentence(text: bytes, tmp_path: Path) -> None:
    native.write(path := tmp_path / "a.safetensors", filled(toy(), 3))
    vit.models.convert(path, "npz", out := tmp_path / "a.npz")
    with zipfile.ZipFile(out, "a") as archive:
        archive.comment = files.COMMENT + text
    with pytest.raises(BadCheckpoint, match=r"description is broken|has version 9") as caught:
        vit.models.load(out)
    assert "\n" not in str(caught.value)


def test_names_of_too_many_classes_do_not_fit_a_comment(tmp_path: Path) -> None:
    start = dataclasses.replace(filled(toy(), 3), class_names=("x" * 30_000, "y" * 30_000, "z" * 30_000))
    native.write(path := tmp_path / "a.safetensors", start)
    assert vit.models.convert(path, "npz", tmp_path / "a.npz")[0].startswith("class names are not kept")
    assert same(vit.models.inspect(tmp_path / "a.npz"), start)


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "a.pth"])
def test_a_directory_is_not_named_like_a_file(name: str, tmp_path: Path) -> None:
    native.write(path := tmp_path / "start", filled(toy(), 3))
    with pytest.raises(BadCheckpoint, match="named like a file"):
        vit.models.convert(path, "hf", tmp_path / name)
    assert not (tmp_path / name).exists()
