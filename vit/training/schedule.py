"""Learning-rate schedules: linear warm-up times a decay (paper Tables 3 and 4, and those of later recipes)."""

import math

from vit.training.config import TrainConfig

STAIRS = (0.3, 0.6, 0.9)  # of all updates, after which `staircase` falls to a tenth (BiT §3.3)
LINEAR_END = 1e-5  # fraction of the peak at the last step, as in the authors' configs (UB, VT utils.py)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate for update `step` (0-based): the decay runs from the end of warm-up to the end.

    As in vision_transformer utils.py: the warm-up is multiplied onto the decay curve. `rsqrt` and the cool-down are
    those of big_vision's utils.py: 1/sqrt(1 + (step - warm-up)/timescale), and a line to 0 over the last steps.
    """
    since = max(step - config.warmup_steps, 0)
    progress = min(since / max(config.steps - config.warmup_steps, 1), 1.0)
    if config.decay == "linear":
        factor = LINEAR_END + (1 - LINEAR_END) * (1 - progress)
    elif config.decay == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * progress))
    elif config.decay == "staircase":
        factor = 0.1 ** sum(step > stair * config.steps for stair in STAIRS)
    else:
        factor = 1 / math.sqrt(1 + since / config.timescale)
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    cooldown = min(1.0, (config.steps - step) / config.cooldown_steps) if config.cooldown_steps else 1.0
    return config.learning_rate * factor * warmup * cooldown
