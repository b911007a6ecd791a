"""What a training step costs and what a device can do: the two sides of model FLOP utilisation (MFU)."""

import functools
import statistics
import time

import torch
from torch import nn

from vit.models.build import Model
from vit.models.counting import forward_macs
from vit.models.masked import MaskedPatchPrediction
from vit.training.precision import Precision

# Dense FLOP/s of the makers' datasheets, by a part of the device's name: with bfloat16 inputs, and with float32 ones
# (no TF32: torch leaves that off). Longer names first.
DATASHEET: dict[str, tuple[float, float]] = {
    "B200": (2250e12, 75e12),
    "GH200": (989e12, 67e12),
    "H200": (989e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
}


def training_flops(model: nn.Module) -> float | None:
    """Floating-point operations of forward and backward pass for one image: 3 x 2 x multiply-adds, products alone.

    What activation checkpointing computes twice does not count. None for a network that is not ours.
    """
    body = model.vit if isinstance(model, MaskedPatchPrediction) else model
    if not isinstance(body, Model):
        return None
    macs = sum(forward_macs(body.config, body.num_classes).values())
    if isinstance(model, MaskedPatchPrediction):
        corrupted = max(round(model.vit.config.grid**2 * model.config.corrupted), 1)
        macs += corrupted * model.head.in_features * model.head.out_features
    return 6.0 * macs


def peak_flops(device: torch.device, precision: Precision) -> float:
    """FLOP/s of the datasheet; what is measured for a CPU and for a device that is not in the table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    found = [peaks for part, peaks in DATASHEET.items() if part in name]
    return found[0][0 if precision == "bfloat16" else 1] if found else measured_peak(device, precision)


@functools.cache
def measured_peak(device: torch.device, precision: Precision) -> float:
    """FLOP/s of a plain product of square matrices of random numbers: what a perfect step could reach here.

    8192 wide on a GPU, 1024 on a CPU, where the best of a few tenths of a second counts: other processes only slow it.
    """
    side, repeats = (8192, 5) if device.type == "cuda" else (1024, 1)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    own = torch.Generator(device).manual_seed(0)  # a training's noise must not depend on whether this ran before
    a = torch.randn(side, side, device=device, generator=own).to(dtype)
    seconds = [_product(a, repeats) for _ in range(6)][1:]
    best = statistics.median(seconds) if device.type == "cuda" else min(seconds)
    return 2 * side**3 / best


def _product(a: torch.Tensor, repeats: int) -> float:
    """Seconds of one."""
    if a.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        torch.matmul(a, a)
    if a.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats
