"""docs/dedup.md, followed literally: its commands are read out of the page and run in order."""

import re
import shlex
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from tests.checkout import ROOT
from tests.dedup.sides import bring, save, tiles
from vit.dedup import report, within
from vit.dedup.itself import BLOCK
from vit.dedup.sources import PIECE
from vit.dedup.state import CODE, MARK

PAGE = (ROOT / "docs" / "dedup.md").read_text()
COMMANDS = [line for block in re.findall(r"^```shell\n(.*?)^```", PAGE, re.M | re.S) for line in block.splitlines()]


def test_every_command_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = bring(tmp_path)
    save(tiles("moon", 1)[0], tmp_path / "flowers" / "moon.jpg")
    shutil.copy(tmp_path / "flowers" / "moon.jpg", tmp_path / "train" / "moon.jpg")
    (tmp_path / "reviewed.csv").write_text("test,train\ncoins/coins 1.jpg,copies/dark.JPEG\n")
    monkeypatch.chdir(tmp_path)
    found: list[int] = []
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        if program == "make":
            assert re.search(f"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.M), command
            continue
        assert program == "vitflow"
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (command, done.output, done.exception)
        out = Path(arguments[arguments.index("--out") + 1])
        found.append(pq.read_table(out / "pairs.parquet").num_rows)
    assert found == [len(known), len(known) - 1, len(known) + 1, len(known) + 1, 3]
    assert {path.name for path in Path("inside").iterdir() if path.is_file()} == set(
        re.findall(r"`(\w+\.\w+)`", files())
    )


def files() -> str:
    """The table of what is left behind, and the one that --self adds."""
    table = PAGE[PAGE.index("| in `out` |") : PAGE.index("## How it works")]
    return table + "`repeated.parquet`"


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    assert f"more than {within.CROWD} look-alikes" in PAGE and f"blocks of {BLOCK:,} images" in PAGE
    assert f"some {PIECE} files" in PAGE and f"{CODE + MARK} bytes per training image" in PAGE
    columns = re.search(r"`pairs.parquet` \| (.*) \|", PAGE)
    assert columns is not None and set(re.findall(r"`(\w+)`", columns[1])) == set(report.COLUMNS.names)
