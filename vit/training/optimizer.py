"""The optimisers of the paper: Adam with decoupled decay at pre-training, SGD with momentum at transfer."""

from typing import Literal

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

Name = Literal["adamw", "sgd"]


def make_optimizer(model: nn.Module, name: Name, *, weight_decay: float) -> Optimizer:
    """AdamW (0.9, 0.999, 1e-8; decay lr·wd·param on every parameter, as flax.optim did) or SGD (0.9).

    The learning rate is set at every step by the loop. Fused kernels where the device has them.
    Raises ValueError if SGD is asked to decay: the paper's transfer has none (Table 4).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if name == "adamw":
        fused = all(parameter.is_cuda for parameter in parameters) or not torch.cuda.is_available()
        return AdamW(parameters, lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay, fused=fused)
    if weight_decay:
        raise ValueError(f"weight_decay {weight_decay} with sgd: the paper transfers without; set it to 0")
    return SGD(parameters, lr=0.0, momentum=0.9)
