"""How to optimise: every number of one training that makes its result. How fast it runs is environment."""

import dataclasses
from typing import Literal, TypeAlias

from vit.training.precision import Precision

Optimizer: TypeAlias = Literal["adamw", "adam", "sgd"]
DecayOn: TypeAlias = Literal["all", "matrices"]
Loss: TypeAlias = Literal["sigmoid", "softmax"]
Decay: TypeAlias = Literal["linear", "cosine", "rsqrt", "staircase"]

AT_LEAST_1 = ("steps", "batch_size", "timescale", "log_every", "save_every")
AT_LEAST_0 = (
    "learning_rate",
    "weight_decay",
    "grad_clip_norm",
    "cooldown_steps",
    "validate_every",
    "patience",
    "spike_factor",
    "rewinds",
)
BELOW_1 = ("momentum", "label_smoothing", "stochastic_depth", "average")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to optimise. Batches and rates are global: the number of workers changes neither.

    Raises ValueError with a sentence if a value is out of range.
    """

    seed: int  # of initial weights, sample order, augmentation and dropout
    steps: int  # optimiser updates
    batch_size: int  # images per update over all workers
    optimizer: Optimizer
    betas: tuple[float, float]  # of Adam; the paper's are 0.9 and 0.999
    eps: float  # of Adam; flax's default, and so the paper's, is 1e-8
    momentum: float  # of SGD; the paper transfers with 0.9
    loss: Loss
    label_smoothing: float  # sigmoid: targets 1 - s and s, 1e-4 as published; softmax: s spread over all classes
    learning_rate: float  # peak, for the global batch
    decay: Decay
    timescale: int  # updates in which rsqrt falls to 1/sqrt(2); 10,000 in big_vision
    warmup_steps: int  # updates
    cooldown_steps: int  # updates at the end in which the rate falls to 0 in a line; rsqrt needs it
    weight_decay: float  # adamw: decoupled, lr x weight_decay x parameter; sgd: L2, added to the gradient as BiT has it
    decay_on: DecayOn  # every parameter, as in the paper (Table 3); or no biases, norms, class token and positions
    grad_clip_norm: float  # global L2 norm; 0 switches clipping off
    stochastic_depth: float  # probability that an image skips the last block; falls in a line to 0 at the first
    precision: Precision  # of products; weights and optimiser are float32 always
    average: float  # result is the exponential average of the weights, 0.9999 in §4.1; 0 switches it off
    validate_every: int  # updates; the best of these becomes the result (§4.3's early stopping); 0: the last one does
    patience: int  # validations without a better one that end the training; 0 goes on to the last step
    spike_factor: float  # a loss of so many times the last interval's is as bad as NaN; 0 switches this off
    rewinds: int  # times to go back to the last checkpoint and leave out the batch of a NaN or spike; 0 stops at once
    log_every: int  # updates
    save_every: int  # updates between checkpoints

    def __post_init__(self) -> None:
        for name in AT_LEAST_1:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        for name in AT_LEAST_0:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} must not be negative")
        for name in BELOW_1:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 0 and below 1")
        _check_optimizer(self)
        _check_schedule(self)
        if self.patience and not self.validate_every:
            raise ValueError(f"patience {self.patience} counts validations: set validate_every, too")


def _check_optimizer(config: TrainConfig) -> None:
    if not all(0 <= beta < 1 for beta in config.betas):
        raise ValueError(f"betas {list(config.betas)} must be at least 0 and below 1")
    if config.eps <= 0:
        raise ValueError(f"eps {config.eps} must be above 0")
    if config.weight_decay and config.optimizer == "adam":
        raise ValueError(
            f"weight_decay {config.weight_decay} with adam: the paper decays decoupled from Adam; choose adamw, or set "
            "it to 0"
        )


def _check_schedule(config: TrainConfig) -> None:
    if not 0 <= config.warmup_steps < config.steps:
        raise ValueError(f"warmup_steps {config.warmup_steps} must be at least 0 and below steps {config.steps}")
    if config.warmup_steps + config.cooldown_steps > config.steps:
        raise ValueError(
            f"warmup_steps {config.warmup_steps} and cooldown_steps {config.cooldown_steps} do not "
            f"fit into {config.steps} steps"
        )
