"""One training in a process of its own, for tests: `python -m tests.vit.training.sitting DIRECTORY [CHANGES]`.

Trains a small network on DIRECTORY/toy from the checkpoints in DIRECTORY/checkpoints on and leaves its losses in
DIRECTORY/losses.jsonl and its weights in DIRECTORY/model.st. CHANGES is JSON: fields of TrainConfig, and
`slow`, seconds that every step takes besides, and `ballast`, a file that is removed after step 10, and `dies`, a step
after which a worker is killed. The names of the
checkpoints are printed at the end. Under torchrun the ranks share the work, with VITFLOW_WORKERS those of Ray.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from flows.adapters import ray_cluster
from tests.networks import tiny_vit
from tests.recipes import augmentation, training
from vit.data.shards import Shards
from vit.models.vit import ViT
from vit.training.checkpoint import Checkpoints
from vit.training.distributed import rank
from vit.training.fit import FitConfig, fit

TINY = tiny_vit(resolution=8, patch_size=4, width=16, depth=2, mlp_dim=32)


def sit(directory: Path, **changes: Any) -> None:
    """Train; call it on every rank."""
    slow, ballast, dies = changes.pop("slow", 0.0), changes.pop("ballast", None), changes.pop("dies", None)
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
    model = ViT(TINY, 3)
    torch.nn.init.normal_(model.head.weight, std=0.1)
    # Attention ignores the bias of its keys, so that gradient is rounding alone, which Adam would scale up to whole
    # steps: an eps above it keeps the comparison to 1e-5 meaningful.
    settings = {"eps": 1e-5, "steps": 20, "save_every": 4, "learning_rate": 0.003} | changes
    trained = fit(
        model,
        Shards(directory / "toy"),
        FitConfig(resolution=8, augment=augmentation(crop_area=0.5, flip=True), train=training(**settings)),
        checkpoints=Checkpoints(directory=directory / "checkpoints", fingerprint="f"),
        report=report,
    )
    if rank() == 0:
        save_file({name: tensor.contiguous() for name, tensor in trained.state_dict().items()}, directory / "model.st")
        print(*sorted(path.name for path in (directory / "checkpoints").glob("step-*")))


def worker(job: tuple[Path, dict[str, Any]], report: ray_cluster.Report) -> None:
    """What every Ray worker runs."""
    torch.set_num_threads(1)
    sit(job[0], **job[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    path, changes = Path(sys.argv[1]), json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")
    if "VITFLOW_WORKERS" in os.environ:
        ray_cluster.run(worker, (path, changes), name="sitting", storage=path / "ray", report=lambda *_: None)
        sys.exit()
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    sit(path, **changes)
    if dist.is_initialized():
        dist.destroy_process_group()
