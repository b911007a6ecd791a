"""The paper's looks inside a Vision Transformer (Fig. 6, 7, 10, 11, 14), each as numbers (parquet) and as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from vit.analysis import inside
from vit.analysis.attention import as_mask, attention, attention_distance, rollout
from vit.analysis.embeddings import filter_components, position_similarity
from vit.models.patch_embed import PatchEmbed
from vit.models.vit import ViT
from vit.typing import Floats

EXAMPLES = 128  # images of the attention distance (App. D.7)
SHOWN = 8  # images of the rollout


def analyse(model: ViT, images: Tensor, out: Path) -> list[Path]:
    """Write what applies to this network into the directory `out`; the files that were written.

    Images B 3 R R in [-1, 1], on the network's device. What a network lacks is left out: a hybrid has no filters,
    relative positions are nothing that two patches could share.
    """
    config = model.config
    written: list[Path] = []
    if isinstance(model.patch_embed, PatchEmbed):
        components, share = filter_components(model)
        columns = {"variance": share.cpu().numpy(), "pixels": list(components.flatten(1).cpu().numpy())}
        written += _write(columns, out / "filters.parquet")
        written.append(inside.filters(components.cpu().numpy(), out / "filters.png"))
    if model.position_tables() is not None:
        alike = position_similarity(model).cpu().numpy()
        rows, columns_ = np.divmod(np.arange(config.grid**2), config.grid)
        columns = {"row": rows, "column": columns_, "cosines": list(alike.reshape(config.grid**2, -1))}
        written += _write(columns, out / "positions.parquet")
        written.append(inside.positions(alike, out / "positions.png"))
    shown = images[:SHOWN]
    seen, distances = _attended(model, images)
    depth, heads = np.divmod(np.arange(distances.size), config.num_heads)
    columns = {"layer": depth, "head": heads, "pixels": distances.reshape(-1)}
    written += _write(columns, out / "attention_distance.parquet")
    written.append(inside.attention_distances(distances, out / "attention_distance.png"))
    written += _write({"patches": list(seen.flatten(1).numpy())}, out / "rollout.parquet")
    pixels = ((shown.cpu().permute(0, 2, 3, 1) + 1) / 2).clamp(0, 1).numpy()
    written.append(inside.rollouts(pixels, as_mask(seen, config.resolution).numpy(), out / "rollout.png"))
    return written


def _attended(model: ViT, images: Tensor) -> tuple[Tensor, Floats]:
    """Rollout of the first images [SHOWN, G, G], and the distance by layer and head over all.

    A few images at a time: attention of a large network takes gigabytes.
    """
    prefix, patch_pixels = model.config.num_prefix_tokens, model.config.patch_pixels
    rollouts: list[Tensor] = []
    total = np.zeros((model.config.depth, model.config.num_heads))
    for start in range(0, len(images), SHOWN):
        layers = attention(model, images[start : start + SHOWN])
        if not rollouts:
            rollouts.append(rollout(layers, num_prefix_tokens=prefix).cpu())
        for layer, probabilities in enumerate(layers):
            distance = attention_distance(probabilities, patch_pixels=patch_pixels, num_prefix_tokens=prefix)
            total[layer] += len(probabilities) * distance.cpu().numpy()
    return rollouts[0], total / len(images)


def _write(columns: Mapping[str, Any], path: Path) -> list[Path]:
    pq.write_table(pa.table(dict(columns)), path)
    return [path]
