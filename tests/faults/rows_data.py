"""Rows about what goes in: images and labels; and that the same gives the same."""

import contextlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import yaml
from PIL import Image

from flows.stages.config import STAGES
from tests.checkout import hashes, make_checkout, run
from tests.faults import faults
from tests.faults.bed import FLOW, Bed, started
from tests.faults.row import Draw, NotRun, Row, Trial
from tests.vit.data.pictures import png
from tests.vit.data.test_hygiene import HANDLED, REJECTED, big_png
from vit.data import tars

PURE = STAGES[:-1]  # register also depends on the registry
MOST_MEMORY = 2e9  # bytes
ODD: dict[str, Callable[[], bytes]] = {
    "one pixel": lambda: encoded(1, 1),
    "a line": lambda: encoded(1, 10_000),
    **{name: make for name, (_, make, _, _) in HANDLED.items()},
}
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "50,000 x 50,000": (lambda: big_png(50_000, 50_000), "is too large"),
    **REJECTED,
}


def encoded(width: int, height: int) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def stage(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "flows.stages", name, "smoke")


def prepared(checkout: Path, **changes: object) -> tuple[int, str, int]:
    """Prepare from another source: exit code, output, bytes of memory at most."""
    config = yaml.safe_load((checkout / "pipelines.yaml").read_text())
    config["pipelines"]["smoke"]["prepare"] |= {"planted_fraction": 0.0, "num_images": 0} | changes
    (checkout / "pipelines.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    most = 0
    with started(checkout, *stage("prepare"), VITFLOW_WORKERS="0") as preparing:
        while preparing.process.poll() is None:
            with contextlib.suppress(psutil.Error):
                most = max(most, sum(one.memory_info().rss for one in preparing.family()))
            time.sleep(0.05)
        return preparing.end(), preparing.text(), most


def bare(where: Bed) -> Path:
    """A checkout without outputs."""
    made = where.copy(where.checkout)
    shutil.rmtree(made / "runs")
    return made


def same_again(where: Bed, draw: Draw) -> Trial:
    """In another directory, a day later, with eight processes that load images for the trainings."""
    start = time.monotonic()
    other = make_checkout(where.root / f"another-directory-{draw.number}")
    env = faults.clock(where.root, 86_400)
    if env is None:
        raise NotRun("no C compiler, with which the clock is moved")
    eight = {"VITFLOW_LOADER": "processes", "VITFLOW_LOADER_WORKERS": "8"}  # evaluate has ten times as many loaders
    for command, more in ((("dvc", "repro", "finetune@smoke"), eight), (FLOW, {})):
        done = run(other, *command, **env, **more)
        assert done.returncode == 0, done.stderr[-2000:]
    for name in PURE:
        assert hashes(other / "runs/smoke" / name) == hashes(where.finished / "runs/smoke" / name), name
    status = run(other, "dvc", "status")
    assert "up to date" in status.stdout, status.stdout
    again = run(other, *FLOW, **where.prefect)
    assert again.returncode == 0 and again.stdout.count("up to date") == len(STAGES), again.stdout
    return Trial(redone=0, seconds=time.monotonic() - start)


def odd_images(where: Bed, draw: Draw) -> Trial:
    start, checkout, folder = time.monotonic(), bare(where), where.root / f"images-{draw.number}"
    for label in ("ant", "bee"):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            (folder / label / f"good {number}.png").write_bytes(png(100 * (label == "bee") + number))
    made = {name: make() for name, make in ODD.items()} | {name: make() for name, (make, _) in BAD.items()}
    for number, data in enumerate(made.values()):
        (folder / "ant" / f"{number}.jpg").write_bytes(data)
    names = {f"ant/{number}.jpg": name for number, name in enumerate(made)}
    share = (len(BAD) + 0.5) / (40 + len(made))
    asked = {"source": "folder", "location": str(folder), "max_reject_share": share}
    found: list[dict[str, str]] = []
    for _ in range(2):
        code, text, most = prepared(checkout, **asked)
        assert code == 0, text[-2000:]
        assert most < MOST_MEMORY, f"{most / 1e9:.1f} GB"
        found.append(hashes(checkout / "runs/smoke/prepare/corpus"))
        rejects = pq.read_table(checkout / "runs/smoke/prepare/corpus/rejects.parquet").to_pylist()
        assert {names[one["key"]] for one in rejects} == BAD.keys(), rejects
        assert all(re.search(BAD[names[one["key"]]][1], one["reason"]) for one in rejects), rejects
        shutil.rmtree(checkout / "runs")
    assert found[0] == found[1], "another decision in the second run"
    code, text, _ = prepared(checkout, **asked | {"max_reject_share": share - 1 / (40 + len(made))})
    assert code == 1 and "unusable" in text and not (checkout / "runs/smoke/prepare").exists(), text[-2000:]
    return Trial(seconds=time.monotonic() - start)


def wrong_labels(where: Bed, draw: Draw) -> Trial:
    kind = draw.of("labels", "class without images", "across splits", "planted")
    start = time.monotonic()
    if kind == "planted":  # test images of the tasks in the corpus, edited, as smoke puts them there
        report = json.loads((where.checkout / "runs/smoke/deduplicate/report.json").read_text())
        planted = report["planted"]
        exact = planted["by_edit"].get("copy", [1, 1])
        assert planted["total"] > 5 and exact[0] == exact[1] and planted["recall"] >= 0.99, planted
        return Trial()
    checkout, folder = bare(where), where.root / f"labels-{draw.number}"
    if kind == "labels":
        folder.mkdir()
        writer = tars.Writer(folder / "train-000.tar")
        for number in range(40):
            writer.add(f"image-{number}", "png", png(number), (7 if number == 3 else number % 2,))
        writer.close()
        (folder / "classes.txt").write_text("ant\nbee\n")
        asked = {"source": "webdataset", "location": str(folder), "classes": str(folder / "classes.txt")}
        code, text, _ = prepared(checkout, **asked)
        assert code == 1 and "7 is not in 0 … 1" in text, text[-2000:]
        code, text, _ = prepared(checkout, **asked | {"max_reject_share": 0.1})
        assert code == 0, text[-2000:]
        rejects = pq.read_table(checkout / "runs/smoke/prepare/corpus/rejects.parquet").to_pylist()
        assert len(rejects) == 1 and "unusable label" in rejects[0]["reason"], rejects
        return Trial(seconds=time.monotonic() - start)
    for number, label in enumerate(("ant", "bee", "cow")):
        if kind == "across splits":  # each image three times
            images = {f"{label}/{image}.png": png(1000 * number + image % 10) for image in range(30)}
        else:
            places = {"train": range(0 if label == "cow" else 20), "val": range(50, 55)}
            images = {f"{s}/{label}/{i}.png": png(1000 * number + i) for s, those in places.items() for i in those}
        for name, data in images.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    code, text, _ = prepared(checkout, source="folder", location=str(folder))
    if kind == "across splits":
        assert code == 0, text[-2000:]
        index = pq.read_table(checkout / "runs/smoke/prepare/corpus/index.parquet").to_pylist()
        by_split = {split: {one["sha256"] for one in index if one["split"] == split} for split in ("train", "val")}
        assert by_split["val"] and not by_split["train"] & by_split["val"], "an image is in both splits"
        return Trial(seconds=time.monotonic() - start)
    assert code == 0, text[-2000:]
    for name in ("deduplicate", "pretrain"):
        with started(checkout, *stage(name), VITFLOW_WORKERS="0") as stage_of:
            code, text = stage_of.end(), stage_of.text()
    assert code == 1 and "1 classes have no training image, among them cow" in text, text[-2000:]
    return Trial(seconds=time.monotonic() - start)


ROWS = [
    Row(
        number=7,
        fault="the same pipeline again: another directory, a day later, eight processes that load: every output the "
        "same bytes; DVC calls it fresh, a further run does nothing",
        times=1,
        attempt=same_again,
        unit="stages",
    ),
    Row(
        number=16,
        fault=f"{len(BAD)} kinds of broken and {len(ODD)} kinds of odd images in a folder: none ends the run, at most "
        "2 GB, each broken one listed with its reason, more than allowed stop it; the same decision twice",
        times=1,
        attempt=odd_images,
    ),
    Row(
        number=18,
        fault="labels out of range, a class without images, an image in two splits, test images in the corpus: "
        "refused, or removed and counted; planted copies are found (exact all, edited 99 %)",
        times=4,
        attempt=wrong_labels,
        left_out="copies across splits that the source itself has drawn: those are taken as they are",
    ),
]
