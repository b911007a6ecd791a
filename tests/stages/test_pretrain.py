"""Pre-training and fine-tuning as stages, in this process, on a corpus of a few images."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from flows.stages import output
from flows.stages.config import Pipeline, load
from flows.stages.finetune import finetune
from flows.stages.pretrain import PretrainConfig, draw, pretrain
from tests.checkout import SMOKE
from vit.data.shards import Shards, png_example, write
from vit.models.weights import native


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """What prepare and deduplicate leave, of noise."""
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    splits = ["val" if i % 5 == 0 else "train" for i in range(40)]
    with output.writing(tmp_path / "prepare", "prepare", load_smoke(tmp_path).prepare, {}) as work:
        examples = [png_example(f"key-{i}", splits[i], i % 3, noise[i]) for i in range(40)]
        write(work / "corpus", examples, name="corpus", class_names=["a", "b", "c"])
    with output.writing(tmp_path / "kept", "deduplicate", load_smoke(tmp_path).deduplicate, {}) as work:
        pq.write_table(Shards(tmp_path / "prepare/corpus").table, work / "index.parquet")
    return {"images": tmp_path / "prepare", "kept": tmp_path / "kept"}


def load_smoke(tmp_path: Path, *overrides: str) -> Pipeline:
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump({"pipelines": yaml.safe_load(SMOKE.read_text())}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITFLOW_ROOT", str(tmp_path))
        return load("smoke", ["pretrain.model.representation=false", "pretrain.train.batch_size=8", *overrides])


def test_masked_patch_prediction_makes_a_backbone(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", "0")
    masking = "{target: mean_colour, corrupted: 0.5, masked: 0.8, replaced: 0.1}"
    config = load_smoke(tmp_path, f"pretrain.masking={masking}", "finetune.train.batch_size=8")
    backbone = pretrain(config.pretrain, **inputs, out=tmp_path / "pretrain")
    metrics = json.loads((backbone / "metrics.json").read_text())
    assert 4 < metrics["val/loss"] < np.log(512) + 0.1 and "val/top1" not in metrics
    model = finetune(config.finetune, **inputs, backbone=backbone, out=tmp_path / "finetune")
    assert 0 <= json.loads((model / "metrics.json").read_text())["val/top1"] <= 1
    assert not list(tmp_path.glob(".scratch/*"))


def test_masking_wants_a_network_that_it_trains_whole(tmp_path: Path) -> None:
    masking = "pretrain.masking={target: pixels, corrupted: 0.5, masked: 0.8, replaced: 0.1}"
    with pytest.raises(ValueError, match="masking needs a ViT with representation false"):
        load_smoke(tmp_path, masking, "pretrain.model.representation=true")


def chosen(kept: Path, pretrain: PretrainConfig, out: Path) -> dict[str, set[str]]:
    table = pq.read_table(draw(pretrain, kept, out) / "index.parquet", columns=["key", "split"]).to_pylist()
    return {split: {row["key"] for row in table if row["split"] == split} for split in ("train", "val")}


def test_a_subset_is_random_and_lies_in_the_larger_ones(inputs: dict[str, Path], tmp_path: Path) -> None:
    configs = {share: load_smoke(tmp_path, f"pretrain.subset={share}").pretrain for share in (0.1, 0.25, 0.5)}
    tenth, quarter, half = (chosen(inputs["kept"], configs[share], tmp_path / str(share)) for share in configs)
    assert [len(one["train"]) for one in (tenth, quarter, half)] == [3, 8, 16]  # of 32
    assert tenth["train"] < quarter["train"] < half["train"]
    assert len(half["val"]) == 8
    assert chosen(inputs["kept"], configs[0.5], tmp_path / "again") == half
    other = load_smoke(tmp_path, "pretrain.subset=0.5", "pretrain.train.seed=1").pretrain
    assert chosen(inputs["kept"], other, tmp_path / "other")["train"] != half["train"]


def test_pretraining_on_a_subset(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", "0")
    config = load_smoke(tmp_path, "pretrain.subset=0.5").pretrain
    metrics = json.loads((pretrain(config, **inputs, out=tmp_path / "pretrain") / "metrics.json").read_text())
    assert (metrics["num_train"], metrics["num_val"]) == (16, 8)


def test_an_empty_subset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"subset is 0\.0; it must be above 0 and at most 1"):
        load_smoke(tmp_path, "pretrain.subset=0")


def test_fine_tuning_takes_the_downstream_images_if_there_are_any(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", "0")
    config = load_smoke(tmp_path, "finetune.train.batch_size=8")
    backbone = pretrain(config.pretrain, **inputs, out=tmp_path / "pretrain")
    grey = np.full((10, 32, 32, 3), 90, dtype=np.uint8)
    examples = [png_example(f"own-{i}", "val" if i < 2 else "train", i % 2, grey[i]) for i in range(10)]
    write(inputs["images"] / "downstream", examples, name="downstream", class_names=["x", "y"])
    model = finetune(config.finetune, **inputs, backbone=backbone, out=tmp_path / "finetune")
    metrics = json.loads((model / "metrics.json").read_text())
    assert (metrics["num_train"], metrics["num_val"]) == (8, 2)
    assert native.read(model / "model.safetensors").class_names == ("x", "y")
