"""Learning-rate schedules: linear warm-up times linear or cosine decay (paper Tables 3 and 4)."""

import math
from typing import Literal

Decay = Literal["linear", "cosine"]
LINEAR_END = 1e-5  # fraction of the peak at the last step, as in the authors' configs (UB, VT utils.py)


def learning_rate(step: int, *, peak: float, decay: Decay, warmup_steps: int, steps: int) -> float:
    """The rate for update `step` (0-based) of `steps`: the decay runs from the end of warm-up to the end.

    As in vision_transformer utils.py: the warm-up is multiplied onto the decay curve.
    """
    progress = min(max((step - warmup_steps) / max(steps - warmup_steps, 1), 0.0), 1.0)
    if decay == "linear":
        factor = LINEAR_END + (1 - LINEAR_END) * (1 - progress)
    else:
        factor = 0.5 * (1 + math.cos(math.pi * progress))
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return peak * factor * warmup
