"""What to expect from 1 to 1,024 GPUs, from a small model: `python -m benchmarks.scaling docs/scaling.md` writes it.

The model is arithmetic on counted FLOPs, parameters and bytes; its assumptions are the constants below. Measured where
`make bench-train` has run on the hardware, else taken from data sheets (they say which).
"""

import dataclasses
import sys
from pathlib import Path

from vit.models.counting import forward_macs, parameters
from vit.models.variants import configure

NETWORKS = ("ViT-B/16", "ViT-L/16", "ViT-H/14")
GPUS = (1, 8, 64, 1024)
CLASSES = 21_843
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

What interruptions cost is told beside the loss, in the terminal, in Prefect and in MLflow: `restarts`, `redone_seconds`
(from the last checkpoint to the last report before each failure, and `train/redone_seconds` for the latest),
`device_hours`, and `cost` if VITFLOW_PRICE_PER_DEVICE_HOUR is set; the registered version and `vitflow report` quote
the totals. They are no part of a stage's output, whose bytes follow from config and inputs alone.

`pytest tests/faults/test_elastic.py -m slow` shows all of it on a cluster of three node processes.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Each is a claim about hardware that a reader may replace."""

    peak: float = 790e12  # FLOP/s: a plain 8192³ bf16 product on an H200, measured elsewhere (datasheet: 989e12)
    utilisation: float = 0.55  # of that, in a compiled step: an estimate until make bench-train has run on one
    within_node: float = 400e9  # bytes/s of an all-reduce between the 8 GPUs of a node: NVLink, an estimate
    between_nodes: float = 40e9  # bytes/s a GPU of an all-reduce between nodes: 400 Gbit/s a GPU less overhead
    overlap: float = 0.8  # share of communication that hides behind the backward pass
    image_bytes: float = 110e3  # a JPEG of ImageNet
    disk: float = 2e9  # bytes/s that one node writes
    mean_hours: float = 50_000  # between failures of one GPU; at 1,024 one in two days
    restart_seconds: float = 120.0  # noticing, starting processes, compiling
    checkpoint_seconds: float = 600.0  # between two checkpoints


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One network on so many GPUs, a global batch of 4,096."""

    images_per_second: float
    efficiency: float
    exposed: float  # seconds of a step spent on communication alone
    input_bytes: float  # a second, all GPUs
    state_bytes: float
    save_seconds: float
    lost: float  # share of the time lost to failures


def predict(name: str, gpus: int, about: Assumptions, *, batch: int = 4096) -> Row:
    """Step time = products / (peak x utilisation) + what communication does not hide."""
    config = configure(name, 224)
    flops = 6.0 * sum(forward_macs(config, CLASSES).values())
    weights = sum(parameters(config, CLASSES).values())
    compute = flops * batch / gpus / (about.peak * about.utilisation)
    # A ring moves 2 (n - 1)/n of the float32 gradients through every GPU.
    bandwidth = about.within_node if gpus <= 8 else about.between_nodes
    exposed = (1 - about.overlap) * 2 * (gpus - 1) / gpus * 4 * weights / bandwidth
    seconds = compute + exposed
    state = 12.0 * weights  # weights and both moments in float32
    nodes = -(-gpus // 8)
    failures = gpus / (about.mean_hours * 3600)  # a second
    return Row(
        images_per_second=batch / seconds,
        efficiency=compute / seconds,
        exposed=exposed,
        input_bytes=batch / seconds * about.image_bytes,
        state_bytes=state,
        save_seconds=state / (about.disk * nodes),
        lost=failures * (about.checkpoint_seconds / 2 + about.restart_seconds),
    )


def page(about: Assumptions) -> str:
    """docs/scaling.md."""
    lines = [
        "# What to expect from more GPUs",
        "",
        "Computed by `python -m benchmarks.scaling docs/scaling.md`, not measured: no GPU was at hand when this page",
        "was written. Counted: FLOPs, parameters. Assumed, to be replaced by what `make bench-train` prints on yours:",
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
