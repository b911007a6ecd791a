"""Rows about damage to what is there already: shards of the corpus, data of a task."""

import json
import re
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq

from tests.checkout import hashes
from tests.faults import bed as beds
from tests.faults import faults
from tests.faults.bed import PRETRAIN, Bed, started
from tests.faults.row import Draw, Row, Trial
from tests.faults.rows_data import stage
from vit.data import tars

SEEN_WHEN_READ = ("flipped byte", "another image")
SEEN_AT_ONCE = ("missing", "short", "short after its images", "duplicate name", "index older than data")
DAMAGES = (*SEEN_WHEN_READ, *SEEN_AT_ONCE)


def damaged_shards(where: Bed, draw: Draw) -> Trial:
    kind = draw.of(*DAMAGES)
    checkout = where.copy(where.checkout)
    corpus = checkout / "runs/smoke/prepare/corpus"
    shard = draw.source.choice(sorted(corpus.glob("*.tar")))
    named = shard.name
    if kind == "flipped byte":
        named = flip_in_an_image(corpus, checkout / "runs/smoke/deduplicate/index.parquet", "train", draw).name
    elif kind == "another image":
        named = another_image(corpus, checkout / "runs/smoke/deduplicate/index.parquet", draw).name
    elif kind == "missing":
        faults.remove(shard, draw.source)
    elif kind == "short":
        faults.truncate(shard, draw.source)
    elif kind == "short after its images":
        faults.rewrite(shard, shard.read_bytes()[: -tars.BLOCK])
    elif kind == "duplicate name":  # of an image, in the index of those that stay
        index, named = checkout / "runs/smoke/deduplicate/index.parquet", "index.parquet"
        table = pq.read_table(index)
        index.unlink()
        pq.write_table(table.take([0, *range(table.num_rows)]), index)
    else:  # the data were written anew, and one image is longer now
        data = shard.read_bytes()
        faults.rewrite(shard, data[: tars.BLOCK] + bytes(tars.BLOCK) + data[tars.BLOCK :])
    start = time.monotonic()
    with started(checkout, *PRETRAIN, VITFLOW_WORKERS="0") as training:
        code, text = training.end(), training.text()
    assert code == 1 and named in text and "Traceback" not in text, f"{kind}: {code}: {text[-2000:]}"
    assert not (checkout / "runs/smoke/pretrain").exists() and not beds.litter(checkout)
    if kind in SEEN_AT_ONCE:
        assert beds.reported(checkout) == 0, "it was found only while training"
    return Trial(seconds=time.monotonic() - start)


def another_image(shards: Path, index: Path, draw: Draw) -> Path:
    """Where a training image was lies another one, which can be decoded; its shard."""
    images = sorted(
        (one for one in pq.read_table(index).to_pylist() if one["split"] == "train"), key=lambda one: one["length"]
    )
    which = draw.source.randrange(1, len(images))
    place, other = images[which], draw.source.choice(images[:which])
    data = bytearray((shards / place["shard"]).read_bytes())
    start = other["offset"]
    source = (shards / other["shard"]).read_bytes()[start : start + other["length"]]
    data[place["offset"] : place["offset"] + len(source)] = source
    faults.rewrite(shards / place["shard"], bytes(data))
    return shards / place["shard"]


def flip_in_an_image(shards: Path, index: Path, split: str, draw: Draw) -> Path:
    """Turn over a bit of an image of a split; its shard."""
    image = draw.source.choice([one for one in pq.read_table(index).to_pylist() if one["split"] == split])
    shard = shards / image["shard"]
    data = bytearray(shard.read_bytes())
    data[image["offset"] + draw.source.randrange(image["length"])] ^= 1
    faults.rewrite(shard, bytes(data))
    return shard


def missing_task(where: Bed, draw: Draw) -> Trial:
    """Its data are damaged: the others are scored and kept. They are gone: that is said before anything is scored. With
    the data back, what is not done is done."""
    kind = draw.of("damaged", "missing")
    checkout = where.copy(where.finished)
    runs = checkout / "runs/smoke"
    expected = hashes(runs / "evaluate")
    for name in ("evaluate", "register"):
        faults.remove(runs / name, draw.source)
    task = draw.source.choice(json.loads((runs / "prepare/tasks/tasks.json").read_text())["tasks"])["name"]
    place, away = runs / "prepare/tasks" / task, where.root / f"away-{draw.number}"
    shutil.copytree(place, away)
    if kind == "damaged":
        flip_in_an_image(place, place / "index.parquet", "test", draw)
    else:
        faults.remove(place, draw.source)
    code, text = evaluated(checkout)
    assert code == 1 and task in text and not (runs / "evaluate").exists(), text[-2000:]
    assert kind == "missing" or "the next start does those alone" in text, text[-2000:]
    with started(checkout, *stage("register"), VITFLOW_WORKERS="0") as registering:
        assert registering.end() == 1 and "run that stage first" in registering.text(), registering.text()[-2000:]
    faults.remove(place, draw.source) if place.exists() else None
    shutil.copytree(away, place)
    start = time.monotonic()
    code, text = evaluated(checkout)
    assert code == 0, text[-2000:]
    done = {name.split("/")[1] for name in re.findall(r"^evaluate \d+/\d+  (\S+)", text, flags=re.MULTILINE)}
    assert done == {task} if kind == "damaged" else len(done) > 1, done
    beds.same(hashes(runs / "evaluate"), expected)
    return Trial(redone=0, seconds=time.monotonic() - start)


def evaluated(checkout: Path) -> tuple[int, str]:
    """Exit code and output of the stage."""
    with started(checkout, *stage("evaluate"), VITFLOW_WORKERS="0") as scoring:
        return scoring.end(), scoring.text()


ROWS = [
    Row(
        number=17,
        fault="a shard has a byte flipped, another image in one's place, is missing or short, an image is listed "
        "twice, or the index is older than the data: the training refuses and names the file",
        times=len(DAMAGES),
        attempt=damaged_shards,
    ),
    Row(
        number=27,
        fault="an image of one task is damaged: the others are scored and kept, nothing is registered, the next run "
        "does that task alone; all its data are missing: that is said before anything is scored",
        times=2,
        attempt=missing_task,
        unit="tasks",
        left_out="19 tasks: smoke has the 10 of mini-VTAB",
    ),
]
