"""What a network costs: parameters and products by part, activation memory of a training step, the paper's exaFLOPs.

Nothing is computed: parameters are counted on the meta device, products from shapes, memory on fake tensors.
"""

import dataclasses
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

from vit.models.build import ModelConfig, build
from vit.models.resnet import ResNetConfig
from vit.models.vit import ViTConfig

JFT_IMAGES = 303_000_000  # one epoch of JFT-300M (paper.md 4.3)
# Parts by the start of a parameter's name, first match first; blocks.i.attn.relative is sorted out before.
PARTS = {
    "patch_embed.backbone.": "stem",
    "patch_embed.proj.": "patch embedding",
    "cls_token": "class token",
    "pos_embed": "positions",
    "relative": "positions",
    "blocks.": "blocks",
    "norm.": "final norm",
    "attn_pool.": "attention pooling",
    "pre_logits.": "representation",
    "stem.": "root",
    "stages.": "stages",
    "head.": "head",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activations:
    """What autograd keeps from a forward pass for the backward pass, in bytes."""

    per_image: int
    per_step: int  # independent of the batch: copies of weights in bfloat16, standardised kernels


def parameters(config: ModelConfig, num_classes: int) -> dict[str, int]:
    """Number of parameters of each part; they add up to all of them."""
    with torch.device("meta"):
        model = build(config, num_classes)
    counted: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = _part(name)
        counted[part] = counted.get(part, 0) + parameter.numel()
    return {part: counted[part] for part in dict.fromkeys(PARTS.values()) if part in counted}


def forward_macs(config: ModelConfig, num_classes: int, *, padding: bool = True) -> dict[str, int]:
    """Multiply-adds of one image's forward pass by part: matrix products and convolutions, nothing else.

    Equal to half of torch.utils.flop_counter.FlopCounterMode's count. Without `padding`, products of a convolution with
    the zeros around the image are left out, as XLA's cost analysis does.
    """
    if isinstance(config, ResNetConfig):
        root, stages, _ = _resnet_macs(config, padding)
        counted = {"root": root, "stages": stages, "head": config.num_features * num_classes}
    else:
        counted = _vit_macs(config, num_classes, padding)
    return {part: number for part, number in counted.items() if number}


def exaflops(config: ModelConfig, images: int) -> float:
    """Cost of pre-training in the paper's unit: 1e18 floating-point operations (Table 6, figures 5 and 8).

    images x 3 (forward and backward) x 2 (multiply and add) x forward MACs at the config's resolution, without the head
    and without products with padding: that gives 17 of the 18 rows of Table 6 within 2 %.
    """
    return images * 6 * sum(forward_macs(config, 0, padding=False).values()) / 1e18


def activations(
    config: ModelConfig, num_classes: int, *, dtype: torch.dtype, grad_checkpointing: bool = False
) -> Activations:
    """Measure what a forward pass keeps for the backward pass, in float32 or under autocast to `dtype`.

    Every storage that autograd saves is counted once; parameters and the images are not. Attention is taken to be
    fused (PyTorch's CPU kernel: q, k, v, output and one number per query). What lives only within the forward or the
    backward pass, gradients and optimiser state are not included. Fake tensors: no memory is used.
    They say bfloat16 where a kernel keeps the statistics of a norm in float32: 0.1 % too little.
    """
    if isinstance(config, ViTConfig) and config.depth > 3:
        shallow = (dataclasses.replace(config, depth=depth) for depth in (2, 3))
        two, three = (activations(c, num_classes, dtype=dtype, grad_checkpointing=grad_checkpointing) for c in shallow)
        more = config.depth - 3  # blocks that keep as much as the third
        return Activations(
            per_image=three.per_image + more * (three.per_image - two.per_image),
            per_step=three.per_step + more * (three.per_step - two.per_step),
        )
    with torch.device("meta"):
        model = build(config, num_classes)
    if grad_checkpointing:
        model.set_grad_checkpointing(True)
    with FakeTensorMode():
        two, three = (_saved_bytes(model, config.resolution, batch, dtype) for batch in (2, 3))
    return Activations(per_image=three - two, per_step=3 * two - 2 * three)


def _part(name: str) -> str:
    if name.endswith(".attn.relative"):
        return "positions"
    return next(part for start, part in PARTS.items() if name.startswith(start))


def _vit_macs(config: ViTConfig, num_classes: int, padding: bool) -> dict[str, int]:
    width, tokens = config.width, config.num_tokens
    stem, channels = 0, 3
    if config.stem is not None:
        root, stages, _ = _resnet_macs(config.stem, padding)
        stem, channels = root + stages, config.stem.num_features
    dense = tokens * (4 * width**2 + 2 * width * config.mlp_dim)  # q, k, v, out; the two layers of the MLP
    attention = 2 * tokens**2 * width  # logits, weighted sum
    if config.position == "relative":
        attention += 2 * tokens**2 * width  # every query with all 2N offsets
    pooling = 0
    if config.pooling == "map":
        pooling = 2 * width**2 + tokens * 2 * width**2 + 2 * tokens * width + 2 * width * config.mlp_dim
    return {
        "stem": stem,
        "patch embedding": config.grid**2 * config.patch_size**2 * channels * width,
        "blocks": config.depth * (dense + attention),
        "attention pooling": pooling,
        "representation": width**2 if config.representation else 0,
        "head": width * num_classes,
    }


def _resnet_macs(config: ResNetConfig, padding: bool) -> tuple[int, int, int]:
    """MACs of the root and of the stages, and the side of the feature map."""
    side, channels = config.resolution, 64 * config.width_factor
    root = 3 * channels * _taps(side, 7, 2, padding) ** 2
    side = _halved(_halved(side))  # the convolution, then the max-pool
    stages = 0
    for stage, units in enumerate(config.layers):
        middle = 64 * config.width_factor * 2**stage
        for unit in range(units):
            stride = 2 if stage and not unit else 1
            stages += side**2 * channels * middle + _taps(side, 3, stride, padding) ** 2 * middle**2
            side = _halved(side) if stride == 2 else side
            stages += side**2 * middle * 4 * middle
            if not unit:
                stages += side**2 * channels * 4 * middle  # the shortcut's projection
            channels = 4 * middle
    return root, stages, side


def _halved(side: int) -> int:
    return -(-side // 2)


def _taps(side: int, kernel: int, stride: int, padding: bool) -> int:
    """Products of a convolution along one axis: kernel x outputs, or only those that meet a pixel.

    v1 and v2 pad differently, but lose equally many products.
    """
    outputs = -(-side // stride)
    if padding:
        return outputs * kernel
    low = max((outputs - 1) * stride + kernel - side, 0) // 2
    return sum(0 <= output * stride + tap - low < side for output in range(outputs) for tap in range(kernel))


def _saved_bytes(model: nn.Module, resolution: int, batch: int, dtype: torch.dtype) -> int:
    """Bytes kept after a forward pass of `batch` images through a meta model, inside a FakeTensorMode."""
    state: dict[str, Tensor] = {name: nn.Parameter(torch.empty(p.shape)) for name, p in model.named_parameters()}
    state |= {name: torch.empty(buffer.shape) for name, buffer in model.named_buffers()}
    images = torch.empty(batch, 3, resolution, resolution)
    kept: dict[StorageWeakRef, torch.UntypedStorage] = {}  # held, so that no address comes twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[StorageWeakRef(storage)] = storage
        return tensor

    autocast = nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype=dtype)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        torch.func.functional_call(model, state, (images,))
    for tensor in (images, *state.values()):
        kept.pop(StorageWeakRef(tensor.untyped_storage()), None)
    return sum(storage.nbytes() for storage in kept.values())
