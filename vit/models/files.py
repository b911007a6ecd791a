"""A trained network on disk: `model.safetensors` (timm's names) beside `model.json` (sizes, classes, preprocessing)."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from vit.models.position import resize_pos_embed
from vit.models.vit import ViT, ViTConfig

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
MEAN = STD = (0.5, 0.5, 0.5)  # pixels in [0, 1] become [-1, 1]


def save_model(directory: Path, model: ViT, class_names: list[str]) -> None:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, directory / WEIGHTS)
    description = {
        "model": dataclasses.asdict(model.config),
        "class_names": class_names,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    (directory / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def load_model(directory: Path) -> tuple[ViT, list[str]]:
    """The network as saved, and its class names."""
    description = read_description(directory)
    class_names: list[str] = description["class_names"]
    model = ViT(ViTConfig(**description["model"]), len(class_names))
    model.load_state_dict(load_file(directory / WEIGHTS))
    return model, class_names


def load_backbone(directory: Path, *, resolution: int, num_classes: int, dropout: float = 0.0) -> ViT:
    """A network for transfer: the trained body at another resolution under one new linear layer of zeros (§3.2).

    The representation layer and the old head are dropped; position embeddings are resized.
    """
    config = ViTConfig(**read_description(directory)["model"])
    config = dataclasses.replace(config, resolution=resolution, representation=False, dropout=dropout)
    model = ViT(config, num_classes)
    state: dict[str, Tensor] = {
        name: tensor
        for name, tensor in load_file(directory / WEIGHTS).items()
        if not name.startswith(("head.", "pre_logits."))
    }
    prefix = int(config.pooling == "tok")
    state["pos_embed"] = resize_pos_embed(state["pos_embed"], config.grid, num_prefix_tokens=prefix)
    state |= {name: tensor for name, tensor in model.state_dict().items() if name.startswith("head.")}
    model.load_state_dict(state)
    return model


def read_description(directory: Path) -> dict[str, Any]:
    """model.json as a dictionary."""
    return json.loads((directory / DESCRIPTION).read_text())
