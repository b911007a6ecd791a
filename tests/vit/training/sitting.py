"""One training in a process of its own, for tests: `python -m tests.vit.training.sitting DIRECTORY [CHANGES]`.

Trains a small network on DIRECTORY/toy from the checkpoints in DIRECTORY/checkpoints on and leaves its losses in
DIRECTORY/losses.jsonl and its weights in DIRECTORY/model.st. CHANGES is JSON: fields of TrainConfig, and
`slow`, seconds that every step takes besides, and `ballast`, a file that is removed after step 10, and `dies`, a step
after which a worker is killed, and `objective` (labels or patches), and `score_batch`, images of a batch of
DIRECTORY/val, which `validate_every` scores. Every rank writes what it was given to train on to
DIRECTORY/seen-RANK.jsonl. The names of the checkpoints are printed at the end. Under torchrun the ranks share the work,
with VITFLOW_WORKERS those of Ray.
"""

import functools
import json
import logging
import os
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from flows.adapters import checkpoint_mirror, ray_training
from tests.networks import tiny_vit
from tests.recipes import augmentation, training
from vit.data import loader
from vit.data.shards import Shards
from vit.data.workers import Pending
from vit.models.masked import MaskedPatchPrediction, MaskingConfig
from vit.models.vit import ViT
from vit.training import scoring
from vit.training.checkpoint import Checkpoints
from vit.training.distributed import from_rank_0, rank, world_size
from vit.training.fit import FitConfig, fit
from vit.training.placement import micro_batch

TINY = tiny_vit(resolution=8, patch_size=4, width=16, depth=2, mlp_dim=32)
# Attention ignores the bias of its keys, so that gradient is rounding alone, which Adam would scale up to whole
# steps: an eps above it keeps the comparison to 1e-5 meaningful.
HIDING = MaskingConfig(target="mean_colour", corrupted=0.5, masked=0.8, replaced=0.1)
SETTINGS: dict[str, Any] = {"eps": 1e-5, "steps": 20, "save_every": 4, "learning_rate": 0.003}


def sit(directory: Path, **changes: Any) -> None:
    """Train; call it on every rank."""
    slow, ballast, dies = changes.pop("slow", 0.0), changes.pop("ballast", None), changes.pop("dies", None)
    objective, scoring.BATCH = changes.pop("objective", "labels"), changes.pop("score_batch", scoring.BATCH)
    torch.manual_seed(0)

    def report(step: int, metrics: dict[str, float]) -> None:
        with (directory / "losses.jsonl").open("a") as file:
            file.write(json.dumps({"step": step} | metrics) + "\n")
        time.sleep(slow)
        if step == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 10 and ballast:
            Path(ballast).unlink()

    # Of a head of zeros, bodies learn nothing in the first step; a random one shows a wrong gradient at once.
    model: ViT | MaskedPatchPrediction = ViT(TINY, 3)
    torch.nn.init.normal_(model.head.weight, std=0.1)
    if objective == "patches":
        model = MaskedPatchPrediction(ViT(TINY, 0), HIDING)
    config = training(**SETTINGS | changes)
    _record_what_is_trained_on(directory, config.batch_size)
    trained = fit(
        model,
        Shards(directory / "toy"),
        FitConfig(resolution=8, augment=augmentation(crop_area=0.5, flip=True), train=config),
        checkpoints=Checkpoints(
            directory=directory / "checkpoints", fingerprint="f", mirror=checkpoint_mirror.configured("sitting")
        ),
        report=report,
        val=Shards(directory / "val") if config.validate_every else None,
    )
    if rank() == 0:
        save_file({name: tensor.contiguous() for name, tensor in trained.state_dict().items()}, directory / "model.st")
        print(*sorted(path.name for path in (directory / "checkpoints").glob("step-*")))


def _record_what_is_trained_on(directory: Path, batch_size: int) -> None:
    """Note of each batch that reaches the network its step, its images in their order, and who sat down together."""
    sitting, handed_over = from_rank_0(uuid.uuid4().hex), loader._on_device

    def noting(pending: Pending, shards: Shards, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        samples = pending.samples
        shown = int(samples.epochs[0]) * len(shards) + int(samples.positions[0])
        about = {"step": shown // batch_size + 1, "images": samples.ids.tolist()}
        with (directory / f"seen-{rank()}.jsonl").open("a") as file:
            file.write(json.dumps(about | {"sitting": sitting, "world_size": world_size()}) + "\n")
        return handed_over(pending, shards, **named)

    loader._on_device = noting  # type: ignore[assignment]


def worker(job: tuple[Path, dict[str, Any]], report: ray_training.Report) -> None:
    """What every Ray worker runs."""
    torch.set_num_threads(1)
    sit(job[0], **job[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    path, changes = Path(sys.argv[1]), json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")
    if "VITFLOW_WORKERS" in os.environ:
        logging.basicConfig(level=logging.INFO)
        fits = functools.partial(micro_batch, training(**SETTINGS).batch_size)
        ray_training.run(
            worker, (path, changes), name="sitting", storage=path / "ray", report=lambda *_: None, fits=fits
        )
        sys.exit()
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    sit(path, **changes)
    if dist.is_initialized():
        dist.destroy_process_group()
