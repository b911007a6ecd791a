"""ResNets in the authors' files: BiT's own .npz (v2, pre-activation), and the v1 network that hybrids use as stem.

BiT: resnet/root_block, resnet/blockB/unitUU/{a,b,c}, resnet/group_norm, resnet/head (big_transfer, bit_pytorch/
models.py); some files number their convolutions, standardized_conv2d_7 (big_vision, bit_paper.py).
v1: conv_root, gn_root, blockB/unitU/{conv1..3,gn1..3,conv_proj,gn_proj} (vision_transformer, models_resnet.py); alone
it adds a dense head (big_vision, bit.py). Numerics: paper.md 1.6 and 1.7.
"""

import re
import statistics
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vit.models.resnet import ResNetConfig
from vit.models.weights import layout
from vit.models.weights.checkpoint import BadCheckpoint, Checkpoint, describe, zero_head_notes
from vit.models.weights.layout import Rule

ROOT = "resnet/root_block/standardized_conv2d/kernel"
V1_ROOT = "conv_root/kernel"
CONV = "standardized_conv2d"
NUMBERED = re.compile(rf"/{CONV}_\d+/")
V1_NAME = re.compile(r"(conv_root|gn_root|block\d+/unit\d+/(conv|gn)\w+)/")
V2_NAME = re.compile(r"resnet/(root_block|block\d+/unit\d+)/")
WIDTH = re.compile(  # tensors whose last axis is as wide as the root: of the root itself and inside the first stage
    rf"(resnet/root_block/{CONV}|conv_root|gn_root|block1/unit\d+/(conv|gn)[12]|resnet/block1/unit\d+/[ab]/{CONV})/"
)
GROUP_NORM = ("gamma", "beta")
OLD_GROUP_NORM = re.compile(r"(^|/)gn(\d+|_root|_proj)/(scale|bias)$")
RESOLUTION = 224  # pixels, at which BiT was pre-trained; the files do not say
V1 = {"flavour": "v1", "group_norm_eps": 1e-6, "standardize_eps": 1e-5, "standardize_eps_on": "std"}
V2 = {"flavour": "v2", "group_norm_eps": 1e-5, "standardize_eps": 1e-10, "standardize_eps_on": "variance"}


def claims(tensors: Mapping[str, Any]) -> bool:
    """Whether the names are BiT's, or those of a v1 ResNet without a transformer above it."""
    return any(V2_NAME.match(name) for name in tensors) or _is_v1(tensors)


def parse(tensors: Mapping[str, Tensor], **settings: Any) -> Checkpoint:
    """A ResNet from a file of the authors. `settings`: fields of its config, resolution for instance.

    Raises BadCheckpoint listing unknown, missing and mis-shaped keys.
    """
    is_v1 = _is_v1(tensors)
    found = squeezed(tensors) if is_v1 else _unnumbered(tensors)
    head = "head/" if is_v1 else "resnet/head/conv2d/"
    values: dict[str, Any] = {
        "family": "resnet",
        "resolution": RESOLUTION,
        "layers": stages(found, "" if is_v1 else "resnet/"),
        "width_factor": width_factor(found),
        **(V1 if is_v1 else V2),
    }
    config = describe(values, settings)
    assert isinstance(config, ResNetConfig)
    num_classes = next((t.shape[-1] for name, t in found.items() if name.startswith(head) and t.ndim), 0)
    state = layout.read(_rules(config, num_classes), found, config, num_classes)
    notes = () if "resolution" in settings else (f"the file does not say its resolution; {RESOLUTION} is assumed",)
    return Checkpoint(
        config=config,
        num_classes=num_classes,
        state=state,
        origin="big_vision .npz of a v1 ResNet" if is_v1 else "BiT .npz",
        notes=notes + zero_head_notes(state),
    )


def emit(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """BiT's layout for v2, big_vision's for v1. Raises BadCheckpoint if the network is no ResNet."""
    config = checkpoint.config
    if not isinstance(config, ResNetConfig):
        raise BadCheckpoint("BiT's format holds ResNets only; write this network as npz, timm, hf or native")
    return layout.write(_rules(config, checkpoint.num_classes), checkpoint.state)


def stem_rules(config: ResNetConfig, ours: str) -> list[Rule]:
    """A v1 ResNet without head, its names here beginning with `ours`."""
    root = f"{ours}stem." if config.layers else ours  # timm's names of a root block alone
    rules = [Rule(f"{root}conv.weight", (V1_ROOT,), "conv"), *layout.affine(f"{root}norm", "gn_root")]
    for stage, block in _units(config):
        unit, mine = f"block{stage + 1}/unit{block + 1}", f"{ours}stages.{stage}.blocks.{block}"
        for number in (1, 2, 3):
            rules.append(Rule(f"{mine}.conv{number}.weight", (f"{unit}/conv{number}/kernel",), "conv"))
            rules += layout.affine(f"{mine}.norm{number}", f"{unit}/gn{number}")
        if block == 0:
            rules.append(Rule(f"{mine}.downsample.conv.weight", (f"{unit}/conv_proj/kernel",), "conv"))
            rules += layout.affine(f"{mine}.downsample.norm", f"{unit}/gn_proj")
    return rules


def stages(tensors: Mapping[str, Any], prefix: str = "") -> tuple[int, ...]:
    """Units per stage, from the highest numbers of block and unit; whether all are there is checked later."""
    units: dict[int, int] = {}
    for name in tensors:
        if match := re.match(rf"{prefix}block(\d+)/unit(\d+)/", name):
            units[int(match[1])] = max(units.get(int(match[1]), 1), int(match[2]))
    count = max(units, default=0)
    if max([count, *units.values()], default=0) > len(tensors):
        raise BadCheckpoint(f"it names block {count} with {len(tensors)} tensors in all; the file is damaged")
    return tuple(units.get(number, 1) for number in range(1, count + 1))


def width_factor(tensors: Mapping[str, Tensor]) -> int:
    """How many times 64 channels the root has and every first unit makes fourfold: what most tensors say."""
    votes = [tensor.shape[-1] // 64 for name, tensor in tensors.items() if tensor.ndim and WIDTH.match(name)]
    if (factor := statistics.mode(votes or [1])) < 1:
        raise BadCheckpoint("its root has fewer than 64 channels: the file is of no ResNet of the paper")
    return factor


def squeezed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Old files store GroupNorm's parameters as [1, 1, 1, C] (google/flax issue 1721)."""
    return {
        name: tensor.flatten() if OLD_GROUP_NORM.search(name) and tuple(tensor.shape[:-1]) == (1, 1, 1) else tensor
        for name, tensor in tensors.items()
    }


def _is_v1(tensors: Mapping[str, Any]) -> bool:
    return any(V1_NAME.match(name) for name in tensors) and not any(
        name.startswith(("Transformer/", "embedding/")) for name in tensors
    )


def _rules(config: ResNetConfig, num_classes: int) -> list[Rule]:
    if config.flavour == "v1":
        return stem_rules(config, "") + (layout.dense("head.fc", "head", "pointwise") if num_classes else [])
    rules = [Rule("stem.conv.weight", (ROOT,), "conv"), *layout.affine("norm", "resnet/group_norm", GROUP_NORM)]
    for stage, block in _units(config):
        unit, mine = f"resnet/block{stage + 1}/unit{block + 1:02d}", f"stages.{stage}.blocks.{block}"
        for number, letter in enumerate("abc", start=1):
            rules.append(Rule(f"{mine}.conv{number}.weight", (f"{unit}/{letter}/{CONV}/kernel",), "conv"))
            rules += layout.affine(f"{mine}.norm{number}", f"{unit}/{letter}/group_norm", GROUP_NORM)
        if block == 0:
            rules.append(Rule(f"{mine}.downsample.conv.weight", (f"{unit}/a/proj/{CONV}/kernel",), "conv"))
    return rules + (layout.dense("head.fc", "resnet/head/conv2d", "conv") if num_classes else [])


def _units(config: ResNetConfig) -> list[tuple[int, int]]:
    return [(stage, block) for stage, blocks in enumerate(config.layers) for block in range(blocks)]


def _unnumbered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        canonical = NUMBERED.sub(f"/{CONV}/", name)
        if canonical in plain:
            raise BadCheckpoint(f"it holds {canonical} twice, once as {name}; the file is damaged")
        plain[canonical] = tensor
    return plain
