"""Trainings in processes of their own (sitting.py), as they would really run."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.checkout import ROOT
from vit.data.shards import png_example, write

SITTING = "tests.vit.training.sitting"
ALONE = [sys.executable, "-m", SITTING]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", SITTING]


class Sitting:
    """A directory in which trainings sit down, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.write("toy", 24)

    def write(self, name: str, number: int) -> None:
        """Shards of so many images of noise, of three classes."""
        noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (number, 9, 9, 3), dtype=np.uint8)
        examples = [png_example(f"key-{i}", "train", i % 3, noise[i]) for i in range(number)]
        write(self.directory / name, examples, name=name, class_names=["a", "b", "c"])

    @contextlib.contextmanager
    def started(self, command: list[str], *, env: dict[str, str] | None = None, **changes: Any) -> Iterator[Any]:
        """A training in the background; killed at the end of the block, if need be."""
        inherited = {name: value for name, value in os.environ.items() if name != "VITFLOW_WORKERS"}  # sitting reads it
        process = subprocess.Popen(
            [*command, str(self.directory), json.dumps(changes)],
            cwd=ROOT,
            env=inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            for member in _family(process):  # ranks would outlive torchrun, and hold its channels open
                with contextlib.suppress(psutil.Error):
                    member.kill()
            process.communicate()

    def run(
        self, command: list[str], *, env: dict[str, str] | None = None, timeout: float = 240, **changes: Any
    ) -> tuple[str, str]:
        """A training to its end: what it printed on both channels. It hangs if `timeout` seconds are not enough."""
        with self.started(command, env=env, **changes) as process:
            out, err = process.communicate(timeout=timeout)
        assert (process.returncode == 0) is ("dies" not in changes), out + err
        return out, err

    def losses(self) -> dict[int, float]:
        """By step; what a later sitting did again replaces what an earlier one had done."""
        rows = [json.loads(line) for line in (self.directory / "losses.jsonl").read_text().splitlines()]
        return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}

    def batches(self) -> dict[str, dict[int, list[int]]]:
        """By sitting, in their order, and step: the images that all ranks were given, in the order of the ranks."""
        files = sorted(self.directory.glob("seen-*.jsonl"))
        rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        found: dict[str, dict[int, list[int]]] = {row["sitting"]: {} for row in rows[0]}
        for row in (row for rank in rows for row in rank):
            found[row["sitting"]].setdefault(row["step"], []).extend(row["images"])
        return found

    def world_sizes(self) -> list[int]:
        """Of the sittings, in their order."""
        rows = [json.loads(line) for line in (self.directory / "seen-0.jsonl").read_text().splitlines()]
        return list({row["sitting"]: row["world_size"] for row in rows}.values())

    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.directory / "model.st")

    def best(self) -> float:
        """The best validation score."""
        manifest = self.directory / "checkpoints" / self.checkpoints()[-1] / "manifest.json"
        return json.loads(manifest.read_text())["numbers"]["best"]

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in (self.directory / "checkpoints").glob("step-*"))


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        head = psutil.Process(process.pid)
        return [*head.children(recursive=True), head]
    except psutil.Error:
        return []


@pytest.fixture
def sitting(tmp_path: Path) -> Callable[[str], Sitting]:
    def make(name: str) -> Sitting:
        (tmp_path / name).mkdir()
        return Sitting(tmp_path / name)

    return make


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Sitting:
    """Twenty undisturbed steps in one process: what everything else must equal."""
    undisturbed = Sitting(tmp_path_factory.mktemp("alone"))
    undisturbed.run(ALONE)
    assert len(undisturbed.losses()) == 20
    return undisturbed
