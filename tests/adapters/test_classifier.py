"""The served classifier is the trained network, takes every kind of image it promises, and refuses the rest."""

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from PIL import Image

from flows.adapters.classifier import BadWeights, Classifier, forward, read_safetensors
from tests.networks import tiny_vit
from vit.models.vit import ViT
from vit.models.weights import native

CLASSES = ["cat", "dog", "owl", "yak"]


def network(pooling: str, representation: bool) -> ViT:
    sizes = {"resolution": 16, "patch_size": 4, "width": 12, "depth": 2, "num_heads": 3, "mlp_dim": 20}
    config = tiny_vit(**sizes, pooling=pooling, representation=representation, dropout=0.1)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = ViT(config, len(CLASSES)).eval()
    for parameter in model.parameters():  # zeros and ones would hide a forgotten bias or scale
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def predict(classifier: Classifier, images: Any, **params: Any) -> pd.DataFrame:
    return classifier.predict(None, images, params)


def load(directory: Path) -> Classifier:
    classifier = Classifier()
    artifacts = {"weights": str(directory / "model.safetensors")}
    classifier.load_context(SimpleNamespace(artifacts=artifacts))  # pyright: ignore[reportArgumentType]
    return classifier


@pytest.fixture(scope="module")
def model() -> ViT:
    return network("tok", False)


@pytest.fixture(scope="module")
def directory(model: ViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    native.save(out / "model.safetensors", model, class_names=CLASSES)
    return out


@pytest.fixture(scope="module")
def classifier(directory: Path) -> Classifier:
    return load(directory)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("pooling", "representation"), [("tok", False), ("tok", True), ("gap", False), ("gap", True)])
def test_numpy_logits_equal_torch(pooling: str, representation: bool, tmp_path: Path) -> None:
    model = network(pooling, representation)
    native.save(tmp_path / "model.safetensors", model, class_names=CLASSES)
    served = load(tmp_path)
    images = np.random.default_rng(0).uniform(-1, 1, (5, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    found = forward(served.weights, served.network, images)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5 * max(1, np.abs(expected).max())


def test_preprocessing_is_part_of_the_model(classifier: Classifier, model: ViT, pixels: np.ndarray) -> None:
    resized = [np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)) for image in pixels]
    inputs = torch.from_numpy((np.stack(resized) / 255 - 0.5) / 0.5).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected = model(inputs).softmax(dim=1).numpy()
    rows = predict(classifier, pixels, top_k=len(CLASSES))
    found = rows.pivot(index="image", columns="class_index", values="score").to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_kind_of_input_gives_the_same_answer(classifier: Classifier, pixels: np.ndarray) -> None:
    files = [png(image) for image in pixels]
    text = [base64.encodebytes(file).decode() for file in files]
    expected = predict(classifier, pixels)
    kinds = [
        list(pixels),
        pixels.tolist(),
        pixels.astype(np.int64),
        files,
        text,
        np.array(files, dtype=object),
        np.array(text),
        {"image": files},
        {"image": list(pixels)},
        pd.DataFrame({"image": files}),
        pd.DataFrame({"other": [1, 2, 3], "image": text}),
        pd.DataFrame({0: list(pixels)}),
    ]
    for kind in kinds:
        pd.testing.assert_frame_equal(predict(classifier, kind), expected)
    for one in (pixels[0], pixels[0].tolist(), files[0], text[0], {"image": files[0]}):
        pd.testing.assert_frame_equal(predict(classifier, one), expected[:1])


def test_batches_do_not_change_the_answer(classifier: Classifier) -> None:
    many = np.random.default_rng(1).integers(0, 256, (130, 16, 16, 3), dtype=np.uint8)
    rows = predict(classifier, many)
    assert rows["image"].tolist() == list(range(130))
    alone = predict(classifier, many[129])
    assert alone["label"].tolist() == [rows["label"][129]]
    assert alone["score"][0] == pytest.approx(rows["score"][129], abs=1e-6)


def test_top_k_is_sorted_and_sums_to_one(classifier: Classifier, pixels: np.ndarray) -> None:
    rows = predict(classifier, pixels, top_k=99)
    assert rows["image"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [CLASSES[index] for index in rows["class_index"]] == rows["label"].tolist()
    scores = rows["score"].to_numpy().reshape(3, 4)
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-6)


def test_no_images_give_an_empty_table(classifier: Classifier) -> None:
    assert len(predict(classifier, [])) == 0
    assert list(predict(classifier, np.zeros((0, 8, 8, 3), np.uint8)).columns)[:2] == ["image", "label"]


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([b"", b"\x89PNG"], "image 0 cannot be decoded"),
        (b"<html>no image</html>", "image 0 cannot be decoded"),
        ("cat.png", "image 0 is text, but not base64"),
        ([None], "image 0 is NoneType"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"shape \(8, 8, 4\)"),
        (np.zeros((8, 8, 3), np.float32), "whole numbers from 0 to 255"),
        (np.full((8, 8, 3), 256), "whole numbers from 0 to 255"),
        ([[[[1, 2, 3]], [[1]]]], "no array of pixels"),
        ({"picture": b""}, "no key 'image'"),
        (pd.DataFrame({"a": [1], "b": [2]}), "no column 'image'"),
    ],
)
def test_bad_input_is_a_sentence(classifier: Classifier, images: object, sentence: str) -> None:
    with pytest.raises(MlflowException, match=sentence):
        predict(classifier, images)


def test_the_bad_image_is_named(classifier: Classifier, pixels: np.ndarray) -> None:
    good = png(pixels[0])
    with pytest.raises(MlflowException, match="image 70 cannot be decoded"):
        predict(classifier, [good] * 70 + [good[:60]])
    with pytest.raises(MlflowException, match="top_k is 0"):
        predict(classifier, pixels, top_k=0)


def damaged(data: bytes, change: str) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    entry = header["head.bias"]
    if change == "cut":
        return data[:-1]
    if change == "header longer than the file":
        return (1 << 60).to_bytes(8, "little") + data[8:]
    if change == "not JSON":
        return data[:8] + b"\x80" * length + data[8 + length :]
    if change == "negative offset":
        entry["data_offsets"] = [-16, 0]
    if change == "shape":
        entry["shape"] = [5]
    if change == "dtype":
        entry["dtype"] = "O"
    new = json.dumps(header).encode()
    return len(new).to_bytes(8, "little") + new + data[8 + length :]


@pytest.mark.parametrize(
    "change", ["cut", "header longer than the file", "not JSON", "negative offset", "shape", "dtype"]
)
def test_damaged_weights_are_refused(directory: Path, tmp_path: Path, change: str) -> None:
    data = (directory / "model.safetensors").read_bytes()
    (tmp_path / "bad.safetensors").write_bytes(damaged(data, change))
    with pytest.raises(BadWeights, match=r"bad\.safetensors"):
        read_safetensors(tmp_path / "bad.safetensors")


def test_weights_of_another_network_are_refused(directory: Path, tmp_path: Path) -> None:
    data = (directory / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    description = json.loads(header["__metadata__"]["vitflow"])
    description["config"]["resolution"] = 32
    header["__metadata__"]["vitflow"] = json.dumps(description)
    new = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(new).to_bytes(8, "little") + new + data[8 + length :])
    with pytest.raises(BadWeights, match="pos_embed"):
        load(tmp_path)
