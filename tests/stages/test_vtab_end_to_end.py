"""All 19 tasks of VTAB-1k from archives in the published layouts to scores.json, on a tiny network."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.stages import output
from flows.stages.config import load
from flows.stages.evaluate import evaluate
from flows.stages.prepare import prepare
from tests.networks import tiny_vit
from tests.stages.test_prepare import MINI
from tests.vit.data.datasets import test_vtab_natural as natural
from tests.vit.data.datasets import test_vtab_rendered as rendered
from tests.vit.data.datasets import test_vtab_specialized as specialized
from tests.vit.data.datasets import test_vtab_structured as structured
from tests.vit.data.datasets.build import mat, picture, tar, write
from tests.vit.data.datasets.vtab_archives import tiny, zipped
from vit.data.datasets.vtab.tasks import TASKS
from vit.data.shards import Shards
from vit.models.build import build
from vit.models.weights import native

pytestmark = pytest.mark.slow
# Images of train, val and test, and classes where there are fewer than published.
SIZES: dict[str, tuple[tuple[int, int, int], int | None]] = {
    "caltech101": ((81, 9, 6), 3),
    "cifar": ((9, 1, 2), None),
    "dtd": ((2, 1, 1), 3),
    "oxford_flowers102": ((2, 1, 5), None),
    "oxford_iiit_pet": ((8, 2, 1), 2),
    "svhn": ((18, 2, 3), None),
    "sun397": ((2, 1, 1), 2),
    "patch_camelyon": ((6, 3, 2), None),
    "eurosat": ((6, 2, 2), None),
    "resisc45": ((6, 2, 2), None),
    "diabetic_retinopathy": ((3, 1, 2), None),
    "clevr_count": ((9, 1, 1), None),
    "clevr_dist": ((9, 1, 1), None),
    "dmlab": ((6, 2, 4), None),
    "kitti": ((42, 4, 4), None),
    "dsprites_loc": ((2048, 256, 256), None),
    "dsprites_ori": ((2048, 256, 256), None),
    "smallnorb_azi": ((18, 9, 9), None),
    "smallnorb_ele": ((18, 9, 9), None),
}


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a folder for each data set, as published but for their sizes."""
    h5py = pytest.importorskip("h5py", reason="PatchCamelyon takes h5py, which nothing else here needs")
    for name, (counts, num_classes) in SIZES.items():
        monkeypatch.setitem(TASKS, name, tiny(name, counts, num_classes))
    place = tmp_path / "vtab"
    write(place / "caltech101", {"101_ObjectCategories.tar.gz": tar(natural.caltech_files(), "w:gz")})
    write(place / "svhn", natural.svhn_files(np.random.default_rng(0), 20, 3)[0])
    write(place / "patch_camelyon", specialized.camelyon_files(h5py, {"train": 6, "valid": 3, "test": 2})[0])
    write(place / "eurosat", {"EuroSAT.zip": zipped(specialized.eurosat_files())})
    specialized.eye_archives(place / "diabetic_retinopathy", 2)
    structured.clevr_archive(place / "clevr")
    structured.kitti_archives(place / "kitti")
    structured.dmlab_files(place / "dmlab")
    rendered.sprites_file(place / "dsprites", monkeypatch)
    rendered.norb_files(place / "smallnorb", rendered.CODES, packed=True)
    for name, files in the_others().items():
        write(place / name, files)
    return place


def the_others() -> dict[str, dict[str, bytes]]:
    """CIFAR-100, DTD, Flowers, Pets, SUN397 and RESISC45."""
    rows = [bytes([n % 5, n]) + bytes([20 * n]) * 3072 for n in range(12)]
    cifar = {"cifar-100-binary/train.bin": b"".join(rows[:10]), "cifar-100-binary/test.bin": b"".join(rows[10:])}
    cifar["cifar-100-binary/fine_label_names.txt"] = "".join(f"fine{n}\n" for n in range(100)).encode()
    folds = {"train1": ["braided/braided_0002.jpg", "banded/banded_0004.jpg"], "val1": ["banded/banded_0002.jpg"]}
    folds |= {"test1": ["polka-dotted/polka-dotted_0001.jpg"]}
    dtd = {f"dtd/labels/{name}.txt": "\n".join([*keys, ""]).encode() for name, keys in folds.items()}
    dtd |= {f"dtd/images/{key}": picture(len(key)) for keys in folds.values() for key in keys}
    splits = {"trnid": np.array([[2, 7]]), "valid": np.array([[3]]), "tstid": np.array([[1, 4, 5, 6, 8]])}
    breeds = {
        "trainval": [(f"{name}_{n}", row) for n in range(1, 6) for row, name in enumerate(("Abyssinian", "beagle"), 1)]
    }
    breeds |= {"test": [("beagle_77", 2)]}
    lists = {
        f"annotations/{part}.txt": "".join(f"{name} {label} {label} 1\n" for name, label in pets).encode()
        for part, pets in breeds.items()
    }
    photos = {f"images/{name}.jpg": picture(len(name) + label) for pets in breeds.values() for name, label in pets}
    places = {"tr": ["/a/abbey/sun_a.jpg", "/t/track/outdoor/sun_b.jpg"], "va": ["/a/abbey/sun_c.jpg"]}
    places |= {"te": ["/a/abbey/sun_d.jpg"]}
    scenes = {f"SUN397{key}": picture(ord(key[-5])) for keys in places.values() for key in keys}
    remote = [f"{name}/{name}_{number:03d}.jpg" for name in ("airplane", "wetland") for number in range(1, 6)]
    return {
        "cifar": {"cifar-100-binary.tar.gz": tar(cifar, "w:gz")},
        "dtd": {"dtd-r1.0.1.tar.gz": tar(dtd, "w:gz")},
        "oxford_flowers102": {
            "102flowers.tgz": tar({f"jpg/image_{n:05d}.jpg": picture(n) for n in range(1, 9)}, "w:gz"),
            "imagelabels.mat": mat({"labels": np.array([[1, 102, 50, 50, 7, 7, 8, 9]], np.uint8)}),
            "setid.mat": mat(splits),
        },
        "oxford_iiit_pet": {"images.tar.gz": tar(photos), "annotations.tar.gz": tar(lists, "w:gz")},
        "sun397": {"SUN397.tar.gz": tar(scenes, "w:gz")}
        | {f"sun397_tfds_{part}.txt": "\n".join(keys).encode() for part, keys in places.items()},
        "resisc45": {
            "NWPU-RESISC45.zip": zipped({f"NWPU-RESISC45/{name}": picture(n) for n, name in enumerate(remote)})
        },
    }


def test_19_tasks_from_archives_to_scores(archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_WORKERS", "0")
    write(tmp_path / "own", {f"{name}/{n}.jpg": picture(n) for name in ("cat", "dog") for n in range(8)})
    asked = dataclasses.replace(
        MINI, source="folder", location=str(tmp_path / "own"), tasks=str(archives), val_fraction=0.3
    )
    images = prepare(asked, out=tmp_path / "images")
    listed = json.loads((images / "tasks/tasks.json").read_text())
    assert [task["name"] for task in listed["tasks"]] == list(SIZES) and listed["family"] == "lossless"
    with output.writing(tmp_path / "dedup", "deduplicate", asked, {}) as work:
        pq.write_table(pa.table({"benchmark": pa.array([], pa.string()), "test": []}), work / "pairs.parquet")
    with output.writing(tmp_path / "model", "finetune", asked, {}) as work:
        native.save(work / output.MODEL, build(tiny_vit(resolution=16, patch_size=8), 2))
    mini = load("mini").evaluate
    train = dataclasses.replace(mini.train, steps=2, warmup_steps=0, batch_size=4)
    config = dataclasses.replace(mini, resolution=16, train=train)
    models = dict.fromkeys(("backbone", "model"), tmp_path / "model")
    given = {"images": images, "dedup": tmp_path / "dedup"} | models
    scores = json.loads((evaluate(config, **given, out=tmp_path / "scores") / "scores.json").read_text())
    check(scores, images)


def check(scores: dict, images: Path) -> None:  # type: ignore[type-arg]
    """19 scores of whole test splits, three groups of 7, 4 and 8, their means and that of all."""
    tasks = scores["tasks"]
    assert {name: task["num_test"] for name, task in tasks.items()} == {
        name: size[0][2] for name, size in SIZES.items()
    }
    groups = {name: [task["top1"] for task in tasks.values() if task["group"] == name] for name in scores["groups"]}
    assert {name: len(own) for name, own in groups.items()} == {"natural": 7, "specialized": 4, "structured": 8}
    for name, own in groups.items():
        assert scores["groups"][name]["top1"] == pytest.approx(np.mean(own))
    assert scores["mean_of_tasks"] == pytest.approx(np.mean([task["top1"] for task in tasks.values()]))
    assert scores["mean_of_groups"] == pytest.approx(np.mean([np.mean(own) for own in groups.values()]))
    for name, task in tasks.items():
        labels = Shards(images / "tasks" / name, splits=("test",)).labels
        assert task["chance"] == pytest.approx(np.bincount(labels).max() / len(labels))
        assert task["top1"] * len(labels) == pytest.approx(round(task["top1"] * len(labels)))
        assert 0 <= task["frozen"]["linear"] <= 1 and task["family"] == "lossless"
