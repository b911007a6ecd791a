"""A whole suite of tasks from NOAH's folders or the hub's shards, and ImageNet-21k's options, by the words of
pipelines.yaml."""

import dataclasses
import json
from pathlib import Path

import pytest

from flows.stages.config import ConfigError, load
from flows.stages.corpora import open_source
from flows.stages.prepare import PrepareConfig, prepare
from flows.stages.scores import Judged, Tuned, summarise
from flows.stages.spread import spread
from flows.stages.tasks import write as write_tasks
from tests.stages.test_prepare import MINI
from tests.vit.data.datasets.build import picture, tar, write
from tests.vit.data.datasets.test_imagenet import whole
from tests.vit.data.datasets.test_vtab_folders import SIZES, noah_files
from tests.vit.data.datasets.test_vtab_folders import shards as hub_files
from tests.vit.data.datasets.vtab_archives import tiny
from vit.data import datasets
from vit.data.datasets.vtab.tasks import TASKS
from vit.data.shards import Shards
from vit.evaluation.probing import Probed
from vit.evaluation.vtab import Score
from vit.training.sweep import Choice


def suite(place: Path, out: Path) -> dict:  # type: ignore[type-arg]
    write_tasks(out, str(place), map=spread)
    return json.loads((out / "tasks.json").read_text())


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, train in (("dtd", 1000), ("dsprites_loc", 1000), ("eurosat", 1000)):
        monkeypatch.setitem(TASKS, name, tiny(name, (train, 5, 3)))


@pytest.mark.usefixtures("shrunk")
@pytest.mark.parametrize("family", ["hf", "noah-jpeg", "lossless"])
def test_a_suite_is_of_the_family_of_its_data(family: str, tmp_path: Path) -> None:
    if family == "hf":
        files = hub_files("wds_vtab-dtd", {"train": 1000, "test": 3}, lambda n: n % 47, per_shard=600)
        files |= hub_files(
            "wds_vtab-dsprites_label_x_position", {"train": 1000, "test": 3}, lambda n: n % 32, per_shard=600
        )
        files["wds_vtab-dsprites_label_x_position/classnames.txt"] = b"".join(b"%d\n" % n for n in range(32))
    else:
        ext = "jpg" if family == "noah-jpeg" else "png"
        files = noah_files("dtd", 47, ext, SIZES) | noah_files("dsprites_loc", 16, ext, SIZES)
    write(tmp_path / "vtab", files)
    found = suite(tmp_path / "vtab", tmp_path / "tasks")
    assert found["family"] == family
    assert {task["name"]: task["family"] for task in found["tasks"]} == {"dtd": family, "dsprites_loc": family}
    for name in ("dtd", "dsprites_loc"):
        task = Shards(tmp_path / "tasks" / name)
        splits = task.table["split"].to_pylist()
        assert {split: splits.count(split) for split in set(splits)} == SIZES
        assert json.loads((tmp_path / "tasks" / name / "manifest.json").read_text())["family"] == family
    assert max(Shards(tmp_path / "tasks" / "dsprites_loc").labels) == 15, "32 positions of the hub are 16 classes"
    tuned = Score(top1=0.5, chance=0.1, num_test=3, top1_clean=0.5, num_clean=3)
    frozen = Probed(few_shot={5: (0.4, 0.01)}, linear=0.5, nearest=0.5)
    runs = Tuned(choice=Choice(train=load("mini").evaluate.train, trials=()), scores={0: tuned})
    judged = Judged(pretrained=runs, untrained=runs, frozen=frozen)
    scores = summarise(found, {task["name"]: judged for task in found["tasks"]}, {}, None)
    assert scores["family"] == family and {task["family"] for task in scores["tasks"].values()} == {family}


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ImageNet-21k as published, but for its size."""
    write(tmp_path / "archives", {"fall11_whole.tar": tar(whole())})
    (tmp_path / "list.txt").write_text("n00000009 no image\nn00000003\nn00000002\nn00000001\n")
    row = datasets.DATASETS["imagenet21k-fall11"]
    monkeypatch.setitem(
        datasets.DATASETS,
        "imagenet21k-fall11",
        dataclasses.replace(row, num_images={"train": 5}, num_classes=3),
    )
    return tmp_path


def config(archive: Path, **changes: object) -> PrepareConfig:
    place = {"source": "dataset:imagenet21k-fall11", "location": str(archive / "archives")}
    return dataclasses.replace(MINI, **place, **changes)


def test_imagenet21k_is_listed_merged_and_cut_as_pipelines_yaml_says(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.stages.tasks.write_mini", lambda directory: Path(directory).mkdir())
    plain = Shards(prepare(config(archive, num_val=2), out=archive / "plain") / "corpus")
    assert len(plain) == 5 and plain.table["split"].to_pylist().count("val") == 2
    assert plain.class_names == ["n00000001", "n00000002", "n00000003"] and not plain.multi_label
    changed = config(archive, num_val=1, merge=True, classes=str(archive / "list.txt"))
    merged = Shards(prepare(changed, out=archive / "merged") / "corpus")
    assert merged.class_names[0] == "n00000009" and merged.multi_label and merged.listed
    assert sorted(merged.label_sets) == [(1,), (1, 2, 3), (3,)]
    assert merged.table["split"].to_pylist().count("val") == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_val": -1}, "num_val is -1; it must be"),
        (
            {"source": "folder", "num_val": 2},
            "num_val is for dataset:imagenet21k-fall11 and .*; source folder is cut by",
        ),
        ({"source": "dataset:cifar10", "merge": True}, "merge is for .*; for source dataset:cifar10 it is false"),
        ({"source": "dataset:cifar10", "classes": "list.txt"}, "classes is list.txt, but dataset:cifar10 has its own"),
    ],
)
def test_what_a_source_has_no_use_for_is_refused(archive: Path, changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(config(archive), **changes)


def test_wrong_options_are_found_before_anything_runs(archive: Path) -> None:
    with pytest.raises(ConfigError, match=r"prepare: merge is for dataset:imagenet21k-fall11"):
        load("mini", ["prepare.merge=true"])
    with pytest.raises(ConfigError, match=r"prepare.num_val"):
        load("mini", ["prepare.num_val=many"])
    with pytest.raises(ValueError, match=r"num_val is 5, but there are 5 images"):
        prepare(config(archive, num_val=5), out=archive / "out")
    with pytest.raises(ValueError, match=r"gone\.txt, which does not exist"):
        open_source(config(archive).source, str(archive / "archives"), classes=str(archive / "gone.txt"))
    (archive / "list.txt").write_text("tench\n")
    with pytest.raises(ValueError, match="must list the WordNet ids"):
        prepare(config(archive, classes=str(archive / "list.txt")), out=archive / "out")
    assert picture(1) and not (archive / "out").exists()
