"""What a training should cost on given devices: arithmetic on counted FLOPs, parameters and bytes, nothing measured.

The assumptions are fields, each a claim about hardware that a reader may replace; docs/scaling.md shows what follows.
"""

import dataclasses

from vit.models.build import ModelConfig
from vit.models.counting import forward_macs, parameters
from vit.training.flops import DATASHEET

NODE = 8  # devices that share a machine
H200 = 790e12  # FLOP/s: a plain 8192³ bf16 product on an H200, measured elsewhere (datasheet: 989e12)
# Bytes of memory by a part of the device's name, as in vit.training.flops.DATASHEET. Longer names first.
MEMORY = {
    "B200": 180e9,
    "GH200": 96e9,
    "H200": 141e9,
    "H100 PCIe": 80e9,
    "H100": 80e9,
    "A100": 80e9,
    "L40S": 48e9,
    "L4": 24e9,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Each is a claim about hardware that a reader may replace."""

    peak: float = H200  # FLOP/s of one device in plain products
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
class Prediction:
    """One network on so many GPUs with a global batch."""

    images_per_second: float
    efficiency: float
    exposed: float  # seconds of a step spent on communication alone
    input_bytes: float  # a second, all GPUs
    state_bytes: float
    save_seconds: float
    lost: float  # share of the time lost to failures


def predict(config: ModelConfig, gpus: int, about: Assumptions, *, batch: int, num_classes: int) -> Prediction:
    """Step time = products / (peak x utilisation) + what communication does not hide."""
    flops = 6.0 * sum(forward_macs(config, num_classes).values())
    weights = sum(parameters(config, num_classes).values())
    compute = flops * batch / gpus / (about.peak * about.utilisation)
    # A ring moves 2 (n - 1)/n of the float32 gradients through every GPU.
    bandwidth = about.within_node if gpus <= NODE else about.between_nodes
    exposed = (1 - about.overlap) * 2 * (gpus - 1) / gpus * 4 * weights / bandwidth
    seconds = compute + exposed
    state = 12.0 * weights  # weights and both moments in float32
    nodes = -(-gpus // NODE)
    failures = gpus / (about.mean_hours * 3600)  # a second
    return Prediction(
        images_per_second=batch / seconds,
        efficiency=compute / seconds,
        exposed=exposed,
        input_bytes=batch / seconds * about.image_bytes,
        state_bytes=state,
        save_seconds=state / (about.disk * nodes),
        lost=failures * (about.checkpoint_seconds / 2 + about.restart_seconds),
    )


def known(device: str) -> str:
    """The name in DATASHEET that is part of a device's name, letter case aside; raises ValueError naming all."""
    for name in DATASHEET:
        if name.lower() in device.lower():
            return name
    raise ValueError(f"no data sheet of device {device!r} is known; known are {', '.join(DATASHEET)}")


def peak(device: str) -> float:
    """FLOP/s of a named device in plain bf16 products: its data sheet, times what an H200 reaches of its own."""
    return DATASHEET[known(device)][0] * H200 / DATASHEET["H200"][0]
