"""`vitflow data` from outside: what it takes for what, what it prints, and what it says when nothing is there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flows import data_cli, terminal
from flows.cli import app
from flows.stages.corpora import guess
from tests.flows.test_data_docs import bring
from vit.data import shards


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(terminal.console, "width", 200)
    bring(tmp_path)
    return tmp_path


def inspect(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["data", "inspect", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("name", "kind"),
    [("photos", "folder"), ("photos.csv", "table"), ("shards", "webdataset"), ("parquet", "huggingface")],
)
def test_everything_is_recognised_and_counted(brought: Path, name: str, kind: str) -> None:
    if kind == "table":
        (brought / "photos.csv").write_text((brought / "photos.csv").read_text().replace("file,tags", "file,label"))
    facts: dict[str, Any] = json.loads(inspect(brought / name, "--json"))
    assert (facts["kind"], facts["images"], facts["formats"]) == (kind, 30, {"jpg": 30})
    assert len(facts["rejected"]) == sum(facts["rejects"].values()) == (1 if kind in ("folder", "table") else 0)


def test_prepared_shards_and_what_was_rejected_before_them(tmp_path: Path) -> None:
    examples = [shards.png_example(f"i{n}", "train", 0, np.full((8, 8, 3), n, np.uint8)) for n in range(3)]
    shards.write(tmp_path / "corpus", examples, name="corpus", class_names=["only"])
    assert guess(str(tmp_path)) == "prepared" and guess(str(tmp_path / "corpus")) == "shards"
    printed = inspect(tmp_path)
    assert "(shards)" in printed and "train 3" in printed and "3 images are smaller than 32 pixels" in printed


def test_many_rejects_are_cut_short_and_many_classes_too(brought: Path) -> None:
    for number in range(data_cli.SHOWN_REJECTS + 5):
        (brought / "photos" / f"class{number}").mkdir()
        (brought / "photos" / f"class{number}" / "bad.jpg").write_bytes(b"")
    printed = inspect(brought / "photos")
    assert printed.count("\nrejected: ") == data_cli.SHOWN_REJECTS + 1 and "6 more, see --json" in printed
    assert "28 classes, the largest and the smallest" in printed
    assert "25 of 28 classes have no image: class0, class1, class10, …" in printed


def test_nothing_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is nothing at .*nowhere"):
        inspect(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has 0 sub-folders"):
        inspect(tmp_path)


def test_archives_that_are_missing_are_named_and_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz"):
        CliRunner().invoke(app, ["data", "fetch", "cifar10", str(tmp_path)], catch_exceptions=False)
    assert not list(tmp_path.iterdir())
    listed = CliRunner().invoke(app, ["data", "list", "--json"], catch_exceptions=False)
    assert json.loads(listed.stdout)["cifar10"] == ["cifar-10-binary.tar.gz"]
