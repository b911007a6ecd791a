"""Pictures of what analyse measures inside a network: the same numbers give the same bytes."""

from pathlib import Path

import numpy as np

from vit.analysis.figures import new_figure, save
from vit.typing import Floats


def filters(components: Floats, path: Path) -> Path:
    """Principal components of the patch embedding [k, P, P, 3] in rows of seven, each scaled to its own range."""
    rows = -(-len(components) // 7)
    figure = new_figure(6.4, 0.95 * rows + 0.4)
    figure.suptitle("filters of the patch embedding: principal components", fontsize="medium")
    for axes in figure.subplots(rows, 7, squeeze=False).flat:
        axes.axis("off")
    for axes, component in zip(figure.axes, components, strict=False):
        low, high = component.min(), component.max()
        axes.imshow((component - low) / max(high - low, 1e-12))
    return save(figure, path)


def positions(alike: Floats, path: Path) -> Path:
    """For each patch of a grid the cosine of its position embedding with all others' [G, G, G, G]."""
    grid = len(alike)
    figure = new_figure(5.2, 5.2)
    figure.suptitle("position embeddings: cosine with those of all patches", fontsize="medium")
    for (row, column), axes in np.ndenumerate(figure.subplots(grid, grid, squeeze=False)):
        axes.imshow(alike[row, column], vmin=-1, vmax=1, cmap="viridis")
        axes.axis("off")
    return save(figure, path)


def attention_distances(pixels: Floats, path: Path) -> Path:
    """Mean attention distance of each head [layers, heads] over the depth of the network."""
    figure = new_figure(5.2, 3.4)
    axes = figure.subplots()
    for head in pixels.T:
        axes.scatter(np.arange(1, len(head) + 1), head, color="#3b7dd8", s=18)
    axes.set(xlabel="layer", ylabel="mean attention distance, pixels", title="each point is a head")
    axes.set_ylim(0, 1.08 * max(float(pixels.max()), 1e-9))
    axes.set_xticks(np.arange(1, len(pixels) + 1, max(1, len(pixels) // 12)))
    return save(figure, path)


def rollouts(images: Floats, masks: Floats, path: Path) -> Path:
    """Images [B, R, R, 3] above themselves, darkened where attention does not reach: masks [B, R, R]."""
    figure = new_figure(1.1 * len(images), 2.5)
    above, below = figure.subplots(2, len(images), squeeze=False)
    figure.suptitle("attention rollout", fontsize="medium")
    for axes, image in zip([*above, *below], [*images, *(images * masks[..., None])], strict=True):
        axes.imshow(image)
        axes.axis("off")
    return save(figure, path)
