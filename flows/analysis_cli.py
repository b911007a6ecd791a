"""`vitflow analyse`: the paper's looks inside a network, on any weights and pictures. Parses, calls, prints."""

from pathlib import Path
from typing import Annotated

import typer


def analyse(
    weights: Annotated[Path, typer.Argument(help="A .npz, .safetensors or .pth file, or a Hugging Face directory.")],
    images: Annotated[list[Path], typer.Argument(help="Image files; the paper takes 128 for the attention distance.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for pictures and numbers; made if missing.")],
    resolution: Annotated[
        int | None, typer.Option("--resolution", help="Pixels; the network's own by default.")
    ] = None,
) -> None:
    """Filters, position embeddings, attention distance and rollout of a ViT: parquet and PNG (Fig. 6, 7, 10, 11)."""
    import numpy as np

    from vit.analysis.analyse import analyse as write
    from vit.data.loader import to_input
    from vit.data.views import evaluation_view
    from vit.models import load
    from vit.models.vit import ViT
    from vit.training.distributed import device

    network = load(weights, resolution=resolution)
    if not isinstance(network, ViT):
        raise ValueError(f"{weights} holds a ResNet, which has no attention and no patches to look at")
    side = network.config.resolution
    pixels = np.stack([evaluation_view(image.read_bytes(), side, "square") for image in images])
    out.mkdir(parents=True, exist_ok=True)
    for path in write(network.to(device()), to_input(pixels), out):
        typer.echo(str(path))
