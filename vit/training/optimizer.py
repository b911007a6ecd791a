"""The optimisers of the paper: Adam with decoupled decay at pre-training, SGD with momentum at transfer."""

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from vit.training.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """AdamW (decay lr·wd·param, as flax.optim did), Adam or SGD (decay is in the gradient) of what wants gradients.

    The learning rate is 0 until `set_rate` is called, at every step. One fused kernel where the device has it.
    """
    groups = _groups(model, config)
    if config.optimizer == "sgd":
        # On a CPU the fused kernel rounds in another order and saves nothing that shows.
        fused = _fused(model) if torch.cuda.is_available() else {}
        return SGD(groups, lr=0.0, momentum=config.momentum, weight_decay=config.weight_decay, **fused)
    kind = AdamW if config.optimizer == "adamw" else Adam
    return kind(groups, lr=0.0, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, **_fused(model))


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def _groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Everything decays, or what multiplies something: tensors of two dimensions or more that are no tokens."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if config.decay_on == "all" or not config.weight_decay:
        return [{"params": [parameter for _, parameter in named]}]
    decaying = [parameter for name, parameter in named if _multiplies(name, parameter)]
    resting = [parameter for name, parameter in named if not _multiplies(name, parameter)]
    return [{"params": decaying}, {"params": resting, "weight_decay": 0.0}]


def _multiplies(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a kernel in flax: no bias, no scale of a norm, no token, no table of positions."""
    tokens = (
        "cls_token",
        "mask_token",
        "pos_embed",
        "pos_embed_x",
        "pos_embed_y",
        "pos_embed_cls",
        "relative",
        "latent",
    )
    return parameter.ndim > 1 and name.rpartition(".")[2] not in tokens


def _fused(model: nn.Module) -> dict[str, bool]:
    """One kernel for all parameters, if they are where torch has one: a GPU or the CPU."""
    devices = {parameter.device.type for parameter in model.parameters()}
    return {"fused": True} if devices <= {"cuda"} or (devices <= {"cpu"} and not torch.cuda.is_available()) else {}
