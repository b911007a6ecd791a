"""`vitflow analyse` on weights and pictures as a user has them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from flows.cli import app
from tests.networks import tiny_vit
from vit.models.build import build
from vit.models.weights import native


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{name}.png" for name in ("chelsea", "coffee")]
    for path in paths:
        Image.fromarray(np.asarray(getattr(data, path.stem)())).save(path)
    return [str(path) for path in paths]


@pytest.mark.parametrize("changes", [{}, {"pooling": "gap"}, {"position": "sincos2d"}], ids=str)
def test_analyse_writes_numbers_and_pictures(tmp_path: Path, pictures: list[str], changes: dict[str, str]) -> None:
    config = tiny_vit(resolution=32, patch_size=8, depth=2, **changes)
    native.save(tmp_path / "model.safetensors", build(config, 3))
    command = ["analyse", str(tmp_path / "model.safetensors"), *pictures, "--out", str(tmp_path / "looks")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    names = {Path(line).name for line in done.output.splitlines()}
    assert names == {path.name for path in (tmp_path / "looks").iterdir()}
    looks = ("attention_distance", "filters", "positions", "rollout")
    assert names == {f"{name}.{kind}" for name in looks for kind in ("parquet", "png")}
    table = pq.read_table(tmp_path / "looks" / "attention_distance.parquet").to_pydict()
    assert list(zip(table["layer"], table["head"], strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert pq.read_table(tmp_path / "looks" / "rollout.parquet").num_rows == len(pictures)


def test_what_a_network_lacks_is_left_out(tmp_path: Path, pictures: list[str]) -> None:
    config = tiny_vit(resolution=32, patch_size=8, position="relative", position_at="every")
    native.save(tmp_path / "model.safetensors", build(config, 3))
    command = ["analyse", str(tmp_path / "model.safetensors"), pictures[0], "--out", str(tmp_path / "looks")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert not list((tmp_path / "looks").glob("positions.*"))
