"""Which precision a device is fast in."""

from typing import Literal, TypeAlias

import torch

Precision: TypeAlias = Literal["float32", "bfloat16"]

BFLOAT16_CUDA = (8, 0)  # compute capability of Ampere, the first with bfloat16 tensor cores
# Instructions that multiply bfloat16: x86 from Cooper Lake, Zen 4 and Sapphire Rapids on; 64-bit Arm from v8.6 on.
BFLOAT16_CPU = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def default_precision(device: torch.device) -> Precision:
    """bfloat16 (autocast) where the device multiplies it in hardware, else float32.

    Not what a device accepts: torch emulates bfloat16 everywhere, and `torch.ops.mkldnn._is_mkldnn_bf16_supported()`
    says True on any CPU with AVX-512, where products may then take four times as long as in float32.
    A training's own precision makes its result and is in pipelines.yaml; this is for what may differ by machine.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= BFLOAT16_CUDA else "float32"
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return "bfloat16" if any(capabilities.get(name) for name in BFLOAT16_CPU) else "float32"
    return "float32"
