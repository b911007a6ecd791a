"""What to expect from 1 to 1,024 GPUs, from a small model: `python -m benchmarks.scaling docs/scaling.md` writes it.

The model is vit.training.scaling's. Measured where `make bench-train` has run on the hardware, else taken from data
sheets (they say which).
"""

import dataclasses
import sys
from pathlib import Path

from vit.models.variants import configure
from vit.training import scaling
from vit.training.scaling import Assumptions, Prediction

NETWORKS = ("ViT-B/16", "ViT-L/16", "ViT-H/14")
GPUS = (1, 8, 64, 1024)
CLASSES = 21_843
MEASURED = """\
## One, measured

`python -m benchmarks.train` on an NVIDIA H200 (torch 2.11, 2026-11-26), whole training steps in bf16 at 224 px. MFU
is of an 8192³ product measured just before each network, 790 to 793 TFLOP/s; the same product does 660 to 690 when it
runs for seconds, as a training does. timm's network took its turns in the same process: compiled, fused AdamW, in a
plain loop.

| network | batch | images/s | MFU | timm compiled, images/s | its time to ours |
|---|---:|---:|---:|---:|---:|
| ViT-B/16 | 1024 | 3,750 | 0.498 | 3,560 | 1.05 (1.05–1.05) |
| ViT-L/16 | 384 | 1,210 | 0.563 | 1,165 | 1.04 (1.04–1.04) |
| ViT-H/14 | 64 | 410 | 0.521 | 404 | 1.01 (1.01–1.02) |
| ViT-H/14 | 192 | 442 | 0.562 | | |

The loop takes 1.01 times a bare forward, backward, clip and optimiser; our default precision (bf16) 0.21 times what
timm's default (fp32) takes, Hugging Face's Trainer 1.77 times our fp32 loop. Long trainings are compiled by
themselves on a GPU: ViT-B/16 gains 1.15. Whole, that took 31 s from cold; block by block 4 s, some kernels being cached
from before.

With the loader (JPEGs of 500 x 375, 16 cores, each batch decoded and augmented): ViT-B/16 3,887 images/s, ViT-L/16
1,322, the step then being the limit. Eight threads are the default: sixteen decode fewer images, 3,649 instead of
5,406 a second, and take Python's lock from the thread that trains (2,232 images/s). A network that is faster than
that wants `VITFLOW_LOADER=processes`, which decode 11,247: ViT-S/16 does 8,061 images/s with them, 4,491 with
threads. They need shared memory for four batches (`--shm-size` in a container).
"""
NODES = """\
## When nodes come and go

`VITFLOW_WORKERS=8` wants eight workers and waits until there are as many. `VITFLOW_WORKERS=1-8` takes as many of these
as the cluster has room for and can share the global batch, and goes on with others when nodes are lost or come back:
the global batch, the images of every step and the learning rate stay what they are (docs/adr/0004). Which images a step
shows follows from its number alone, so nothing is seen twice or left out.

- A node that is lost costs the steps since the last checkpoint (`save_every`), and starting the workers anew.
- A node that came is noticed within `VITFLOW_RESIZE_SECONDS` (60): the workers save and stop after the next step that
  is logged (`log_every`), and more of them go on with the step after it.
- Ray's notice that a node will be taken away (a drained node; spot instances on KubeRay) reaches the workers within
  `RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S` (5): they save and stop likewise, and are started on the other nodes.
- A training that fails is tried again for as long as it gets further than before; after four failures at the same place
  it ends with what the last one said.

Checkpoints lie on the disk that the nodes share (`runs/NAME/.scratch`). With `VITFLOW_CHECKPOINTS=s3://bucket/prefix`
each is copied there, too, its manifest last, by the thread that writes it; a run that finds an empty disk, or a damaged
checkpoint, fetches the newest one that verifies. With parameters spread over the ranks the nodes must share a disk all
the same: rank 0 sends the parts of all.

What interruptions cost is told beside the loss, in the terminal, in Prefect and in MLflow: `restarts`, `redone_seconds`
(from the last checkpoint to the last report before each failure, and `train/redone_seconds` for the latest),
`device_hours`, and `cost` if VITFLOW_PRICE_PER_DEVICE_HOUR is set; the registered version and `vitflow report` quote
the totals. They are no part of a stage's output, whose bytes follow from config and inputs alone.

`pytest tests/faults/test_elastic.py -m slow` shows all of it on a cluster of three node processes.

## What Ray costs at the start

`make setup-dev && python -m benchmarks.startup` (bytecode compiled, nothing beside it; `mini`, two workers on two
cores): until its first step pretrain takes 7 s more than in one process, finetune 4.5 s, evaluate 1.8 s: 13 s a run,
up to 16 s when the machine is slow. Most of it are Ray's own processes, and workers that import torch and Ray at the
same time. With `VITFLOW_WORKERS=0` there is none of that.
"""


def predict(name: str, gpus: int, about: Assumptions, *, batch: int = 4096) -> Prediction:
    """A network by name at 224 px, with the classes of ImageNet-21k."""
    return scaling.predict(configure(name, 224), gpus, about, batch=batch, num_classes=CLASSES)


def page(about: Assumptions) -> str:
    """docs/scaling.md."""
    lines = [
        "# What to expect from more GPUs",
        "",
        *MEASURED.splitlines(),
        "",
        "## Many, computed",
        "",
        "By `python -m benchmarks.scaling docs/scaling.md`; there never was more than one GPU at hand. Counted: FLOPs,",
        "parameters. Measured above: `peak`, `utilisation`. The rest is assumed, to be replaced by your own:",
        "",
        *(f"- `{field.name}` {getattr(about, field.name):g}" for field in dataclasses.fields(about)),
        "",
        "Global batch 4,096 (paper Table 3), 224 px, 21,843 classes. *Lost* is the share of time that failures cost",
        "with a checkpoint every ten minutes: half an interval and a restart each. Checkpoints are written in the",
        "background or, spread over the ranks, by all nodes at once.",
        "",
        "| network | GPUs | images/s | efficiency | exposed communication | input | checkpoint | written in | lost |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in NETWORKS:
        for gpus in GPUS:
            row = predict(name, gpus, about)
            lines.append(
                f"| {name} | {gpus:,} | {row.images_per_second:,.0f} | {row.efficiency:.0%} "
                f"| {row.exposed * 1e3:.1f} ms | {row.input_bytes / 1e9:.2f} GB/s | {row.state_bytes / 1e9:.1f} GB "
                f"| {row.save_seconds:.1f} s | {row.lost:.2%} |"
            )
    lines += [
        "",
        "At 1,024 GPUs a batch of 4,096 leaves four images for each: communication decides, and a larger batch or",
        "fewer GPUs is the better use of them.",
        "",
        NODES,
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(Assumptions()))
