"""docs/data.md, followed literally: its blocks are read out of the page and run on a tiny corpus."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from flows import data_cli
from flows.cli import app
from flows.stages import tasks
from flows.stages.config import load
from flows.stages.prepare import prepare
from tests.checkout import ROOT, SMOKE, environment, make_checkout
from tests.vit.data.pictures import encoded, pack
from vit.data.shards import Shards
from vit.data.synthetic.draw import integers

PAGE = (ROOT / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"^```(shell|yaml)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
YAML = [yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml"]
COMMANDS = [line for kind, text in BLOCKS if kind == "shell" for line in text.splitlines()]
KINDS = ("ant", "bee", "cat")


def picture(number: int) -> bytes:
    pixels = integers("docs", number, np.arange(40 * 40 * 3), count=256).astype(np.uint8).reshape(40, 40, 3)
    return encoded(Image.fromarray(pixels), "JPEG")


def bring(directory: Path) -> None:
    """What the page speaks of: a folder, a table of its images, shards and parquet; one file of 31 is broken."""
    images = {f"{KINDS[n % 3]}/{n}.jpg": picture(n) for n in range(30)}
    for name, data in [*images.items(), ("ant/broken.jpg", b"oh no")]:
        (directory / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "photos" / name).write_bytes(data)
    rows = [f"photos/{name},{name[:3]}{'|big' if n % 4 == 0 else ''}" for n, name in enumerate(images)]
    (directory / "photos.csv").write_text("\n".join(["file,tags", *rows, "photos/gone.jpg,ant"]))
    samples = {
        f"{n:04d}.{ext}": d
        for n, data in enumerate(images.values())
        for ext, d in (("jpg", data), ("cls", str(n % 3).encode()))
    }
    pack(directory / "shards" / "0.tar", samples)
    (directory / "classes.txt").write_text("\n".join(KINDS))
    (directory / "parquet").mkdir(exist_ok=True)
    cells = [{"bytes": data, "path": name} for name, data in images.items()]
    table = pa.table({"image": cells, "label": [n % 3 for n in range(30)]})
    pq.write_table(table, directory / "parquet" / "train-00000-of-00001.parquet")


def describe(directory: Path, changes: dict[str, Any]) -> None:
    """Pipeline `mine`: a copy of smoke, whose numbers finish in a minute, with these lines of prepare changed."""
    section = yaml.safe_load(SMOKE.read_text())["smoke"]
    assert changes.keys() <= section["prepare"].keys()
    section["prepare"] |= changes
    (directory / "pipelines.yaml").write_text(yaml.safe_dump({"pipelines": {"mine": section}}))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with someone's images, in which commands run; mini-VTAB, drawn elsewhere, is left out."""
    bring(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITFLOW_ROOT", str(tmp_path))
    monkeypatch.setenv("VITFLOW_WORKERS", "0")
    monkeypatch.setattr(tasks, "write_mini", lambda directory: directory.mkdir())
    yield tmp_path


def run(command: str) -> str:
    """A command of the page, in this process; DVC and Prefect only reach the function that is called here."""
    program, *arguments = shlex.split(command)
    if (program, arguments[0]) == ("dvc", "repro"):
        assert arguments[-1] == "prepare@mine"
        prepare(load("mine").prepare, out=Path("runs/mine/prepare"))
        return ""
    assert program == "vitflow"
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (command, done.output, done.exception)
    return done.output


def test_the_commands_of_the_page(here: Path) -> None:
    describe(here, YAML[0])
    printed = {command: run(command) for command in COMMANDS if not command.startswith("vitflow run")}
    assert len(printed) == 4
    assert (here / "photos.png").is_file()
    before, after = (
        printed["vitflow data inspect photos --sheet photos.png"],
        printed["vitflow data inspect runs/mine/prepare"],
    )
    assert "not yet cut 30" in before and "rejected: ant/broken.jpg cannot be decoded" in before
    assert "train 24, val 6" in after and "rejected: ant/broken.jpg cannot be decoded" in after
    assert "cifar10" in printed["vitflow data list"]


@pytest.mark.parametrize("changes", [each for each in YAML if "source" in each], ids=lambda each: each["source"])
def test_every_source_of_the_page_can_be_prepared(here: Path, changes: dict[str, Any]) -> None:
    if changes["source"] == "reference":
        describe(here, YAML[0])
        run("dvc repro prepare@mine")
    describe(here, {"val_fraction": 0.2, "max_reject_share": 0.2} | changes)
    out = prepare(load("mine").prepare, out=here / "out")
    corpus = Shards(out / "corpus")
    assert len(corpus) == 30 and set(corpus.table["split"].to_pylist()) == {"train", "val"}
    expected = {"table": ["ant", "bee", "big", "cat"], "huggingface": ["0", "1", "2"]}
    assert corpus.class_names == expected.get(changes["source"], list(KINDS))
    assert {corpus.read(row) for row in range(30)} == {picture(number) for number in range(30)}
    assert any((out / "corpus").glob("*.tar")) == (changes["source"] != "reference")
    assert corpus.multi_label == (changes["source"] == "table")


def test_other_images_to_fine_tune_on(here: Path) -> None:
    (changes,) = [each for each in YAML if "downstream" in each]
    (here / "photos" / "ant" / "broken.jpg").unlink()
    (here / "photos").rename(here / "other-photos")
    bring(here)
    describe(here, YAML[0] | changes)
    out = prepare(load("mine").prepare, out=here / "out")
    assert len(Shards(out / "downstream", splits=("train", "val"))) == 30


def test_tasks_from_the_folders_of_noah(here: Path) -> None:
    """KITTI's is the smallest test set; the other tasks are named as missing."""
    folder = here / YAML[-1]["tasks"] / "kitti"
    for split, count in (("train800", 800), ("val200", 200), ("test", 711)):
        (folder / "images" / split).mkdir(parents=True)
        names = [f"images/{split}/{number:06d}.jpg" for number in range(count)]
        for name in names:
            (folder / name).write_bytes(picture(1))
        (folder / f"{split}.txt").write_text("".join(f"{name} {n % 4}\n" for n, name in enumerate(names)))
    describe(here, YAML[0] | YAML[-1])
    out = prepare(load("mine").prepare, out=here / "out")
    listed = yaml.safe_load((out / "tasks" / "tasks.json").read_text())
    assert listed["family"] == "noah-jpeg"
    assert [(task["name"], task["group"], task["num_classes"]) for task in listed["tasks"]] == [
        ("kitti", "structured", 4)
    ]
    assert [len(Shards(out / "tasks" / "kitti", splits=(split,))) for split in ("train800", "val200", "test")] == [
        *(800, 200, 711),
    ]


def test_the_page_names_every_rule() -> None:
    from vit.data.pictures import MAX_PIXELS

    assert f"above {MAX_PIXELS // 10**6} megapixels" in PAGE
    assert all(name in PAGE for name in ("rejects.parquet", "index.parquet", "`vitflow data fetch NAME DIRECTORY`"))
    assert {command.name or command.callback.__name__ for command in data_cli.data.registered_commands} == {
        *("inspect", "list", "fetch"),
    }


@pytest.mark.slow
def test_the_page_from_end_to_end(tmp_path: Path) -> None:
    """In a checkout, as a user would: every command, training included."""
    checkout = make_checkout(tmp_path)
    bring(checkout)
    describe(checkout, YAML[0])
    for command in COMMANDS:
        arguments = shlex.split(command)
        done = subprocess.run(
            arguments, cwd=checkout, env=environment(checkout), capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert (checkout / "runs/mine/register/registration.json").is_file() and (checkout / "photos.png").is_file()
