"""New data outside the checkout are noticed by listing, not reading; nothing new is no reason to run."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.adapters.listing import listing
from flows.stages import arrivals, tasks
from flows.stages.prepare import Downstream, PrepareConfig, prepare
from tests.flows.test_data_s3 import CONFIG


def draw(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([number, len(name)]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw(tmp_path / "photos", *(f"{label}/{number}.png" for label in ("cat", "dog") for number in range(4)))
    return tmp_path / "photos"


def config(folder: Path) -> PrepareConfig:
    return dataclasses.replace(CONFIG, location=str(folder))


@pytest.fixture
def out(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITFLOW_WORKERS", "0")
    monkeypatch.setattr(tasks, "write_mini", lambda directory: directory.mkdir())
    seen = arrivals.moments(config(folder))
    out = prepare(config(folder), out=tmp_path / "runs" / "prepare")
    arrivals.remember(seen, out)
    return out


def test_the_same_files_are_no_reason(folder: Path, out: Path) -> None:
    assert arrivals.changes(config(folder), out) == ()


def test_what_comes_goes_or_is_replaced_is_a_reason(folder: Path, out: Path) -> None:
    draw(folder, "cat/new.png")
    (reason,) = arrivals.changes(config(folder), out)
    assert "9 files" in reason
    assert str(folder) in reason
    (folder / "cat" / "new.png").unlink()
    assert arrivals.changes(config(folder), out) == ()
    (folder / "cat" / "0.png").rename(folder / "dog" / "4.png")
    assert arrivals.changes(config(folder), out)
    (folder / "dog" / "4.png").rename(folder / "cat" / "0.png")
    assert arrivals.changes(config(folder), out) == ()
    os.utime(folder / "cat" / "0.png")  # other bytes of the same length would look like this
    (reason,) = arrivals.changes(config(folder), out)
    assert "written again" in reason


def test_a_copy_of_data_and_output_elsewhere_is_the_same(folder: Path, out: Path, tmp_path: Path) -> None:
    os.utime(folder / "cat" / "0.png")
    (out.parent / ".prepare.touched.json").unlink()  # as on a machine that pulled the output
    assert arrivals.changes(config(folder), out) == ()


def test_a_place_that_is_gone_keeps_what_was_read(folder: Path, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.rename(folder.with_name("moved"))
    assert arrivals.changes(config(folder), out) == ()
    assert "cannot be listed" in caplog.text


def test_every_place_with_data_is_looked_at(tmp_path: Path) -> None:
    some = dataclasses.replace(
        CONFIG,
        source="table",
        location="s3://photos/2026/labels.csv",
        classes=str(tmp_path / "names.txt"),
        tasks="/data/vtab",
        downstream=Downstream(source="folder", location="/data/imagenet"),
    )
    assert arrivals.places(some) == {
        "location": "s3://photos/2026",
        "classes": str(tmp_path / "names.txt"),
        "tasks": "/data/vtab",
        "downstream.location": "/data/imagenet",
    }


def test_listing_counts_files_and_bytes(folder: Path) -> None:
    found = listing(str(folder))
    assert found.files == 8
    assert found.bytes == sum(path.stat().st_size for path in folder.rglob("*.png"))
    alone = listing(str(folder / "cat" / "0.png"))
    assert alone.files == 1
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        listing(str(folder / "fish"))
