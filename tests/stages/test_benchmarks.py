"""Benchmarks of Table 2 beside VTAB: from archives in the published layouts to scores by the paper's rules."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flows.stages import output, transfers
from flows.stages.config import ConfigError, load, names
from flows.stages.deduplicate import _test_sets
from flows.stages.evaluate import EvaluateConfig, evaluate, probed
from flows.stages.judging import BenchmarkConfig
from flows.stages.prepare import EMBEDDED, prepare
from flows.stages.transfers import Piece
from tests.networks import tiny_vit
from tests.stages.test_prepare import MINI
from tests.vit.data.datasets.build import imagenet, picture, tar, write
from tests.vit.data.datasets.test_cifar import binary
from tests.vit.data.datasets.test_cifar import images as planes
from tests.vit.data.datasets.test_imagenet import LISTS, real_json, v2_files
from tests.vit.data.datasets.vtab_archives import tiny
from vit.data import datasets
from vit.data.datasets import real
from vit.data.datasets.vtab.tasks import TASKS
from vit.data.shards import MANIFEST, Shards, png_example
from vit.data.shards import write as write_shards
from vit.evaluation import vtab
from vit.evaluation.features import features
from vit.evaluation.probing import ProbeConfig, few_shots, pool
from vit.models import load as load_model
from vit.models.build import build
from vit.models.weights import native

NAMES = ("imagenet2012", "imagenet-real", "imagenet-v2", "cifar10")
SIZES = {"imagenet2012": 6, "imagenet-real": 4, "imagenet-v2": 6, "cifar10": 3}  # of test; ReaL leaves out two of six


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of cats and dogs, DTD of VTAB, and the benchmarks, all of few images."""
    monkeypatch.setenv("VITFLOW_WORKERS", "0")
    monkeypatch.setitem(TASKS, "dtd", tiny("dtd", (2, 1, 1), 3))
    shrink(monkeypatch)
    place = imagenet(tmp_path / "archives")
    monkeypatch.setattr(real, "imagenet_real", functools.partial(real.imagenet_real, sha256=real_json(place)))
    write(place, {"imagenetv2-matched-frequency.tar.gz": tar(v2_files([0, 1, 4]))})
    folder = "cifar-10-batches-bin/"
    cifar = {f"{folder}data_batch_{n}.bin": binary(planes(n, 20), [i % 2 for i in range(20)]) for n in range(1, 6)}
    cifar |= {
        f"{folder}batches.meta.txt": b"airplane\nautomobile\n",
        f"{folder}test_batch.bin": binary(planes(9, 3), [0, 1, 0]),
    }
    write(place / "cifar10", {"cifar-10-binary.tar.gz": tar(cifar, "w:gz")})
    folds = {"train1": ["braided/braided_0002.jpg", "banded/banded_0004.jpg"], "val1": ["banded/banded_0002.jpg"]}
    folds |= {"test1": ["polka-dotted/polka-dotted_0001.jpg"]}
    dtd = {f"dtd/labels/{name}.txt": "\n".join([*keys, ""]).encode() for name, keys in folds.items()}
    dtd |= {f"dtd/images/{key}": picture(len(key)) for keys in folds.values() for key in keys}
    write(place / "dtd", {"dtd-r1.0.1.tar.gz": tar(dtd, "w:gz")})
    write(tmp_path / "own", {f"{name}/{n}.jpg": picture(n) for name in ("cat", "dog") for n in range(8)})
    where = {"source": "folder", "location": str(tmp_path / "own"), "tasks": str(place), "benchmarks": NAMES}
    return prepare(dataclasses.replace(MINI, **where, val_fraction=0.3), out=tmp_path / "images")


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data sets as published but for their sizes."""
    for name, counts in {
        "imagenet2012": {"train": 15, "val": 6},
        "imagenet-real": {"test": 4},
        "imagenet-v2": {"test": 6},
        "cifar10": {"train": 100, "test": 3},
    }.items():
        classes = 2 if name == "cifar10" else 5
        row = dataclasses.replace(datasets.DATASETS[name], num_images=counts, num_classes=classes)
        monkeypatch.setitem(datasets.DATASETS, name, row)


def others(tmp_path: Path, classes: int) -> dict[str, Path]:
    """What de-duplication and fine-tuning leave: one image of ImageNet-V2 was in the corpus."""
    leaked = Shards(tmp_path / "images/tasks/imagenet-v2").keys[0]
    with output.writing(tmp_path / "dedup", "deduplicate", MINI, {}) as work:
        pq.write_table(pa.table({"benchmark": ["imagenet-v2"], "test": [leaked]}), work / "pairs.parquet")
    for name, stage in (("backbone", "pretrain"), ("model", "finetune")):
        with output.writing(tmp_path / name, stage, MINI, {}) as work:
            native.save(work / output.MODEL, build(tiny_vit(resolution=16, patch_size=8), classes))
    return {name: tmp_path / name for name in ("dedup", "backbone", "model")}


def config(**changes: Any) -> EvaluateConfig:
    mini = load("mini").evaluate
    train = dataclasses.replace(mini.train, steps=9, warmup_steps=0, batch_size=4)
    rows = {"cifar10": BenchmarkConfig(steps=3, warmup_steps=1, learning_rates=(0.01, 0.001))}
    return dataclasses.replace(mini, **{"resolution": 16, "train": train, "benchmarks": rows, **changes})


def test_benchmarks_are_prepared_with_the_papers_splits(prepared: Path) -> None:
    listed = {task["name"]: task for task in json.loads((prepared / "tasks/tasks.json").read_text())["tasks"]}
    assert list(listed) == [*NAMES, "dtd"] and listed["cifar10"]["group"] == "transferred"
    assert {listed[name]["group"] for name in NAMES[:3]} == {"as_is"}
    splits = Shards(prepared / "tasks/cifar10").table["split"].to_pylist()
    assert {split: splits.count(split) for split in set(splits)} == {"train": 98, "val": 2, "test": 3}
    assert {root.name: len(root.shards) for root in _test_sets(prepared) if root.shards} == {**SIZES, "dtd": 1}, (
        "all of them are guarded by de-duplication"
    )
    assert sorted(Shards(prepared / "tasks/imagenet-real").label_sets) == sorted(tuple(sorted(s)) for s in LISTS if s)


def test_each_is_scored_by_its_rule(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Piece] = []
    real_score = transfers.score
    monkeypatch.setattr(
        transfers, "score", lambda subject, piece, memory: (ran.append(piece), real_score(subject, piece, memory))[1]
    )
    given = others(tmp_path, 5)
    read: dict[str, list[Path]] = {"load": [], "under_new_head": []}
    for name, files in read.items():
        real = getattr(transfers, name)
        monkeypatch.setattr(
            transfers, name, lambda file, real=real, files=files, **how: (files.append(file), real(file, **how))[1]
        )
    monkeypatch.setattr(vtab, "answers", lambda model, shards, **_: np.full(len(shards), 2))
    out = evaluate(config(), images=prepared, **given, out=tmp_path / "out")
    scores = json.loads((out / "scores.json").read_text())
    found = scores["benchmarks"]
    assert {name: row["num_test"] for name, row in found.items()} == SIZES
    labels = {name: Shards(prepared / "tasks" / name, splits=("test",)) for name in NAMES}
    assert found["imagenet-real"]["top1"] == np.mean([2 in labels for labels in labels["imagenet-real"].label_sets])
    for name in ("imagenet2012", "imagenet-v2", "cifar10"):
        assert found[name]["top1"] == (labels[name].labels == 2).mean()
    assert found["cifar10"]["chosen"]["steps"] == 3 and len(found["cifar10"]["chosen"]["dev"]) == 2
    assert list(scores["tasks"]) == ["dtd"] and scores["mean_of_tasks"] == scores["tasks"]["dtd"]["top1"]
    names = [piece.name for piece in ran if piece.task == "cifar10"]
    assert names == ["vtab/cifar10/dev-lr-0.01-steps-3", "vtab/cifar10/dev-lr-0.001-steps-3", "vtab/cifar10"]
    assert sum(piece.as_is for piece in ran) == 3
    assert {file.parent for file in read["load"]} == {given["model"]}, "the fine-tuned model answers as it is"
    assert {file.parent for file in read["under_new_head"]} == {given["backbone"]}, "transfers start where it did"


def test_as_is_means_the_models_own_answers(prepared: Path, tmp_path: Path) -> None:
    given = others(tmp_path, 5)
    out = evaluate(config(), images=prepared, **given, out=tmp_path / "out")
    found = json.loads((out / "scores.json").read_text())["benchmarks"]
    model = load_model(given["model"] / output.MODEL)
    tests = Shards(prepared / "tasks/imagenet2012", splits=("test",))
    assert found["imagenet2012"]["top1"] == vtab.answered(model, tests, "square").top1
    assert found["imagenet-v2"]["num_clean"] == 5


def test_few_images_of_each_class_tell_how_good_the_backbone_is(prepared: Path, tmp_path: Path) -> None:
    """ImageNet's 5-shot score: from the downstream images, at the resolution of pre-training."""
    given, place = others(tmp_path, 5), prepared / "downstream"
    several = dataclasses.replace(config(), resolution=32, probes=ProbeConfig(shots=[1, 5], supports=2))
    assert told(evaluate(several, images=prepared, **given, out=tmp_path / "none")) is None
    colours = {"dark": 40, "light": 210}
    examples = [
        png_example(f"{split}-{name}-{n}", split, label, np.full((24, 40, 3), value + n, np.uint8))
        for split, count in (("train", 30), ("val", 4))
        for label, (name, value) in enumerate(colours.items())
        for n in range(count)
    ]
    write_shards(place, examples, name="downstream", class_names=list(colours))
    out = evaluate(several, images=prepared, **given, out=tmp_path / "some")
    found = told(out)
    assert found["num_test"] == 8 and set(found["few_shot"]) == {"1", "5"}
    network = native.transfer(given["backbone"] / output.MODEL, resolution=16, num_classes=2, dropout=0.0)
    parts = [Shards(place, splits=(split,)) for split in ("train", "val")]
    known, asked = (features(network, part, resolution=16, view="inner") for part in parts)
    rows = pool(several.probes, known[1], several.train.seed)
    assert len(rows) == 20 and torch.bincount(known[1][rows]).tolist() == [10, 10]
    expected = few_shots(
        several.probes, (known[0][rows], known[1][rows]), asked, num_classes=2, seed=several.train.seed
    )
    assert {int(shots): (one["top1"], one["std"]) for shots, one in found["few_shot"].items()} == expected


def test_downstream_images_of_several_labels_are_not_probed(tmp_path: Path) -> None:
    place = (tmp_path / "downstream").resolve()
    images = [png_example("a", "train", 0, np.zeros((8, 8, 3), np.uint8))]
    write_shards(place, images, name="downstream", class_names=["x"])
    assert probed(tmp_path) == place
    manifest = json.loads((place / MANIFEST).read_text())
    (place / MANIFEST).write_text(json.dumps(manifest | {"multi_label": True}))
    assert probed(tmp_path) is None


def told(out: Path) -> Any:
    return json.loads((out / "scores.json").read_text())["downstream"]


def test_what_cannot_be_scored_is_said(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 5 classes, but the model answers 7"):
        evaluate(config(), images=prepared, **others(tmp_path, 7), out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"made the benchmark cifar10, but evaluate\.benchmarks does not say how"):
        evaluate(config(benchmarks={}), images=prepared, **others(tmp_path, 5), out=tmp_path / "out")
    with pytest.raises(ConfigError, match="benchmark 'mnist' is unknown"):
        load("mini", ["prepare.benchmarks=[mnist]"])
    with pytest.raises(ConfigError, match="are read from the directory `tasks`, which is null"):
        load("mini", ["prepare.benchmarks=[cifar10]"])


def test_the_papers_pipelines_have_the_rows_of_table_4() -> None:
    rates = [0.001, 0.003, 0.01, 0.03]
    expected = {"cifar10": (10_000, 500), "cifar100": (10_000, 500)}
    expected |= {"oxford-iiit-pets": (500, 100), "oxford-flowers102": (500, 100)}
    for pipeline in names():
        if pipeline not in EMBEDDED:
            rows = load(pipeline).evaluate.benchmarks
            assert {name: (row.steps, row.warmup_steps) for name, row in rows.items()} == expected
            assert all(list(row.learning_rates) == rates for row in rows.values())
