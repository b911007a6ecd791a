"""`vitflow predict PLACE --out …`: the answers of one by one; what is damaged is listed, what was stopped goes on."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from flows.adapters import mlflow_gate, mlflow_registry
from flows.adapters.mlflow_gate import Gate
from flows.cli import app
from flows.stages import predict_folder
from flows.stages.config import ConfigError
from tests.adapters.test_mlflow_registry import METRIC, register
from tests.networks import tiny_vit
from vit.models.vit import ViT
from vit.models.weights import native

NAME, MODEL = "vit-asked", "models:/vit-asked@champion"
NUM = 50
BAD = {
    "cut.jpg": "is truncated",
    "empty.png": "is empty (0 bytes)",
    "page.JPG": "cannot be decoded (no known image format)",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a champion, and a folder of photos of which three are none."""
    root = tmp_path_factory.mktemp("checkout")
    crown(root)
    draw(root / "photos", NUM)
    return root


def crown(root: Path) -> None:
    """Register a network of three classes in a checkout as NAME's champion."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = ViT(tiny_vit(resolution=16, patch_size=8), 3)
    torch.nn.init.normal_(network.head.weight)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITFLOW_ROOT", str(root))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        (root / "model").mkdir()
        native.save(root / "model" / "model.safetensors", network, class_names=["cat", "dog", "owl"])
        made = register(root / "model", NAME, "f1", 0.5)
        mlflow_gate.promote(NAME, made.version, Gate(metric=METRIC, min_improvement=0.0))


def draw(folder: Path, count: int) -> None:
    """Small pictures in two folders; three files that only look like pictures, and one that does not."""
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        path = folder / f"{number % 2}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    (folder / "0" / "cut.jpg").write_bytes(buffer.getvalue()[:700])
    (folder / "0" / "empty.png").write_bytes(b"")
    (folder / "page.JPG").write_text("<html>Not found</html>")
    (folder / "notes.txt").write_text("no image")


@pytest.fixture(autouse=True)
def place(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITFLOW_ROOT", str(root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    monkeypatch.setenv("VITFLOW_WORKERS", "0")
    return root / "photos"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the images that were asked about, in order."""
    names: list[str] = []
    original = predict_folder.answers

    def answers(asked: predict_folder.Asked, piece: predict_folder.Piece) -> pa.Table:
        table = original(asked, piece)
        names.extend(piece[1])
        if len(names) == 24:
            raise RuntimeError("stopped")
        return table

    monkeypatch.setattr(predict_folder, "answers", answers)
    yield names


def predict(*arguments: object) -> Result:
    command = ["predict", *map(str, arguments), "--model", MODEL, "--piece", "12"]
    return CliRunner().invoke(app, command, catch_exceptions=False)


def rows(table: pa.Table) -> list[dict[str, Any]]:
    return table.to_pylist()


def test_the_answers_are_those_of_one_by_one(place: Path, tmp_path: Path) -> None:
    done = predict(place, "--out", tmp_path, "--top", 2, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["images"], told["errors"], told["not_images"], told["done_before"]) == (NUM + 3, 3, 1, 0)
    assert told["model"] == f"models:/{NAME}/1"
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table.schema.metadata is not None and table.schema.metadata[b"model"] == f"models:/{NAME}/1".encode()
    found = {row["path"]: row for row in rows(table)}
    assert len(found) == NUM + 3
    model = mlflow_registry.load(MODEL)
    for name, row in found.items():
        if Path(name).name in BAD:
            assert BAD[Path(name).name] in row["error"]
            assert row["label"] is row["probability"] is row["label_2"] is None
            continue
        alone = model.predict([(place / name).read_bytes()], params={"top_k": 2})
        assert [row["label"], row["label_2"], row["error"]] == [*alone["label"], None]
        assert [row["probability"], row["probability_2"]] == pytest.approx(list(alone["score"]), abs=1e-6)
    assert {row["label"] for row in found.values()} == {"cat", "dog", "owl", None}


def test_every_kind_of_table_says_the_same(place: Path, tmp_path: Path) -> None:
    for name in ("all.parquet", "all.csv", "all.jsonl"):
        said = predict(place, "--out", tmp_path / name)
        assert said.exit_code == 0
        assert f"{NUM + 3} images by models:/{NAME}/1" in said.stdout
        assert "3 have no answer" in said.stdout and "page.JPG cannot be decoded" in said.stdout
    expected = rows(pq.read_table(tmp_path / "all.parquet"))
    assert [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()] == expected
    options = pyarrow.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
    assert rows(pyarrow.csv.read_csv(tmp_path / "all.csv", convert_options=options)) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.csv", "all.jsonl", "all.parquet"]


def test_an_interrupted_job_does_only_the_rest(place: Path, root: Path, tmp_path: Path, asked: list[str]) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        predict(place, "--out", tmp_path)
    assert list(tmp_path.iterdir()) == [], "whole or not at all"
    first = list(asked)
    done = predict(place, "--out", tmp_path, "--json")
    assert json.loads(done.stdout)["done_before"] == 12
    assert asked[:24] == first and len(asked) == 24 + NUM + 3 - 12
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert sorted({*asked}) == sorted(row["path"] for row in rows(table))
    assert list((root / ".vitflow" / "predict").iterdir()) == []


def test_a_changed_image_is_asked_about_again(place: Path, tmp_path: Path, asked: list[str]) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        predict(place, "--out", tmp_path)
    file = place / asked[0]
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(file)
    assert predict(place, "--out", tmp_path).exit_code == 0
    assert asked[0] in asked[24:]


def test_what_cannot_be_done_is_a_sentence(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one folder or s3:// prefix, not 2 places"):
        predict(place, tmp_path, "--out", tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        predict(place / "nowhere", "--out", tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(predict_folder.NoImages, match="only 1 other files"):
        predict(tmp_path, "--out", tmp_path)
    with pytest.raises(ValueError, match="--out, too"):
        predict(place)
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    assert predict(tmp_path, "--out", tmp_path).exit_code == 1, "nothing has an answer"
    assert pq.read_table(tmp_path / "predictions.parquet").num_rows == 1
