"""How a parameter of ours lies in a file written by JAX or TensorFlow: other names, other order of axes.

A format is a list of rules. The same list reads, writes, and says which keys and shapes a file must have.
Shapes: D width, h heads, d head width, I and O inputs and outputs, H and W of a kernel, C channels, K classes.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from vit.models.build import ModelConfig
from vit.models.weights.checkpoint import PLAIN, STACK, Spelling, compare, skeleton

__all__ = ["PLAIN", "STACK", "Rule", "Spelling", "affine", "dense", "heads", "heads_out", "read", "write"]

Kind: TypeAlias = Literal["same", "dense", "conv", "pointwise", "heads_in", "heads_bias", "heads_out", "patches_only"]


class Rule(NamedTuple):
    """One parameter of ours and what a file makes of it; several of theirs are parts of ours along its first axis."""

    ours: str
    theirs: tuple[str, ...]
    kind: Kind = "same"
    heads: int = 1


def read(
    rules: Iterable[Rule],
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    num_classes: int,
    *,
    spelling: Spelling = PLAIN,
) -> dict[str, Tensor]:
    """The state dict under our names; transposed views of the file's tensors, copied only where parts are joined.

    Raises BadCheckpoint listing unknown, missing and mis-shaped keys as the file spells them.
    """
    rules = list(rules)
    compare(tensors, write(rules, skeleton(config, num_classes)), spelling=spelling)
    return {rule.ours: _ours(rule, [tensors[name] for name in rule.theirs]) for rule in rules}


def write(rules: Iterable[Rule], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file from a state dict; every parameter must have its rule."""
    rules = list(rules)
    assert {rule.ours for rule in rules} == state.keys(), {rule.ours for rule in rules} ^ state.keys()
    return {
        name: part for rule in rules for name, part in zip(rule.theirs, _theirs(rule, state[rule.ours]), strict=True)
    }


def affine(ours: str, theirs: str, names: tuple[str, str] = ("scale", "bias")) -> list[Rule]:
    """Weight and bias of a norm, whose names in the file are `names`."""
    return [Rule(f"{ours}.weight", (f"{theirs}/{names[0]}",)), Rule(f"{ours}.bias", (f"{theirs}/{names[1]}",))]


def dense(ours: str, theirs: str, kind: Kind = "dense") -> list[Rule]:
    """Kernel and bias of a linear layer or, with kind "conv" or "pointwise", of a convolution."""
    return [Rule(f"{ours}.weight", (f"{theirs}/kernel",), kind), Rule(f"{ours}.bias", (f"{theirs}/bias",))]


def heads(ours: str, theirs: str, parts: tuple[str, ...], num_heads: int) -> list[Rule]:
    """Projections into heads, each part a layer of its own in the file and one fused layer here."""
    kernels = tuple(f"{theirs}/{part}/kernel" for part in parts)
    biases = tuple(f"{theirs}/{part}/bias" for part in parts)
    return [
        Rule(f"{ours}.weight", kernels, "heads_in", num_heads),
        Rule(f"{ours}.bias", biases, "heads_bias", num_heads),
    ]


def heads_out(ours: str, theirs: str, num_heads: int) -> list[Rule]:
    """The projection back from heads."""
    return [
        Rule(f"{ours}.weight", (f"{theirs}/out/kernel",), "heads_out", num_heads),
        Rule(f"{ours}.bias", (f"{theirs}/out/bias",)),
    ]


def _ours(rule: Rule, parts: list[Tensor]) -> Tensor:
    match rule.kind:
        case "same":
            return parts[0]
        case "dense":  # I O -> O I
            return parts[0].T
        case "conv":  # H W I O -> O I H W
            return parts[0].permute(3, 2, 0, 1)
        case "pointwise":  # I O -> O I 1 1
            return parts[0].T[:, :, None, None]
        case "heads_in":  # each D h d -> h·d D
            return torch.cat([part.flatten(1).T for part in parts])
        case "heads_bias":  # each h d -> h·d
            return torch.cat([part.flatten() for part in parts])
        case "heads_out":  # h d D -> D h·d
            return parts[0].flatten(0, 1).T
        case "patches_only":  # 1 G² D -> 1 1+G² D: a class token without position is one with a position of zeros
            return torch.cat([torch.zeros_like(parts[0][:, :1]), parts[0]], dim=1)


def _theirs(rule: Rule, ours: Tensor) -> list[Tensor]:
    parts = ours.chunk(len(rule.theirs))
    match rule.kind:
        case "same":
            return [ours]
        case "dense":
            return [ours.T]
        case "conv":
            return [ours.permute(2, 3, 1, 0)]
        case "pointwise":
            return [ours.flatten(1).T]
        case "heads_in":
            return [part.T.unflatten(1, (rule.heads, -1)) for part in parts]
        case "heads_bias":
            return [part.unflatten(0, (rule.heads, -1)) for part in parts]
        case "heads_out":
            return [ours.T.unflatten(0, (rule.heads, -1))]
        case "patches_only":
            return [ours[:, 1:]]
