"""Features of a frozen network, taken once and used by every probe."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vit.data.loader import evaluation_batches
from vit.data.shards import Shards
from vit.data.views import View
from vit.models.build import Model


@torch.no_grad()  # not inference_mode: some probes are trained on what comes out
def features(
    model: Model, shards: Shards, *, resolution: int, view: View, rows: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """What the head sees of every image, or of those of `rows`: float32 [N, D], and labels int64 [N], on the CPU."""
    rows = range(len(shards)) if rows is None else rows
    model.eval()
    seen: list[Tensor] = []
    labels: list[Tensor] = []
    for images, targets in evaluation_batches(shards, rows, resolution=resolution, view=view):
        seen.append(model.features(images).float().cpu())
        labels.append(targets.cpu())
    return torch.cat(seen), torch.cat(labels)
