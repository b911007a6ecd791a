"""Our own format: one safetensors file whose metadata describes the network, so that the file alone rebuilds it.

The metadata has one entry, "vitflow": JSON of the format's version, the config, class names, how images are cut and
resized at evaluation, and how pixels in [0, 1] are scaled. Written atomically; the same network gives the same bytes.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor

from vit.data.views import View
from vit.models.build import Model, ModelConfig
from vit.models.vit import ViTConfig
from vit.models.weights import files
from vit.models.weights.checkpoint import (
    BadCheckpoint,
    Checkpoint,
    at,
    checked,
    describe,
    instantiate,
    view,
    with_new_head,
    zero_head_notes,
)

ENTRY = files.DESCRIPTION
UNTOLD_VIT = ("position", "gelu", "layer_norm_eps", "dropout")  # what names and shapes of the authors' files leave open
UNTOLD_RESNET = ("group_norm_eps", "standardize_eps", "standardize_eps_on")
VERSION = 1
IMAGE_MEAN = IMAGE_STD = (0.5, 0.5, 0.5)  # pixels in [0, 1] become [-1, 1]


def save(path: Path, model: Model, *, class_names: Sequence[str] = (), evaluation: View = "square") -> None:
    """Write a network, what it is and how it was shown images, whole or not at all.

    Raises BadCheckpoint if there are class names, but not one per class.
    """
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    checkpoint = Checkpoint(
        config=model.config,
        num_classes=model.num_classes,
        state=state,
        origin="a network in memory",
        class_names=tuple(class_names),
        evaluation=evaluation,
    )
    write(path, checkpoint)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint of any origin, whole or not at all, its tensors as they are."""
    checked(checkpoint)
    files.write_safetensors(path, emit(checkpoint), {ENTRY: description(checkpoint)})


def description(checkpoint: Checkpoint) -> str:
    """What the tensors do not say, as JSON; other formats have a place for it, too."""
    return json.dumps(
        {
            "version": VERSION,
            "config": dataclasses.asdict(checkpoint.config),
            "num_classes": checkpoint.num_classes,
            "class_names": list(checkpoint.class_names),
            "evaluation": checkpoint.evaluation,
            "image_mean": list(IMAGE_MEAN),
            "image_std": list(IMAGE_STD),
        }
    )


def emit(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The state dict: our names are the format's."""
    return dict(checkpoint.state)


def claims(metadata: Mapping[str, str]) -> bool:
    """Whether the metadata of a safetensors file are ours; the names alone are timm's."""
    return ENTRY in metadata


def read(path: Path) -> Checkpoint:
    """Read a file that `save` or `write` wrote. Raises BadCheckpoint."""
    contents = files.read(path)
    if not claims(contents.metadata):
        raise BadCheckpoint(f"{path} has no description of its network in the metadata; read it with vit.models.load")
    try:
        return checked(parse(contents.tensors, contents.metadata))
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{path}: {error}") from error


class Told(NamedTuple):
    """What a description adds to names and shapes that tell the rest."""

    fields: dict[str, Any]  # of the config, a hybrid's stem's among them
    class_names: tuple[str, ...]
    evaluation: View


def told(metadata: Mapping[str, str]) -> Told:
    """What a description beside another format's tensors adds to them. Raises BadCheckpoint if it is broken."""
    config, _, class_names, evaluation = _described(metadata, {})
    resnet = config.stem if isinstance(config, ViTConfig) else config
    fields = {name: getattr(config, name) for name in UNTOLD_VIT if isinstance(config, ViTConfig)}
    fields |= {name: getattr(resnet, name) for name in UNTOLD_RESNET if resnet is not None}
    return Told(fields | {"resolution": config.resolution}, class_names, evaluation)


def parse(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], **settings: Any) -> Checkpoint:
    """The checkpoint from the tensors and metadata of a file; settings are fields of the config that overrule it.

    Raises BadCheckpoint if the description is broken.
    """
    config, num_classes, class_names, evaluation = _described(metadata, settings)
    return Checkpoint(
        config=config,
        num_classes=num_classes,
        state=dict(tensors),
        origin="native: a network with its description",
        class_names=class_names,
        evaluation=evaluation,
        notes=zero_head_notes(tensors),
    )


def transfer(path: Path, *, resolution: int, num_classes: int, dropout: float) -> Model:
    """A network for another task: the body of a native file under a new head of zeros, always (paper §3.2).

    The representation layer is dropped, position embeddings are resized the authors' way. Eval mode, float32.
    """
    checkpoint = with_new_head(at(read(path), resolution), num_classes)
    config = checkpoint.config
    if isinstance(config, ViTConfig):
        config = dataclasses.replace(config, dropout=dropout)
    return instantiate(dataclasses.replace(checkpoint, config=config))


def _described(
    metadata: Mapping[str, str], settings: Mapping[str, Any]
) -> tuple[ModelConfig, int, tuple[str, ...], View]:
    """Config, number of classes, class names and way of showing images of a description."""
    try:
        values = cast(dict[str, Any], json.loads(metadata[ENTRY]))
        if values["version"] != VERSION:
            raise BadCheckpoint(f"its format has version {values['version']}, this program knows {VERSION}; update it")
        config, num_classes = describe(values["config"], settings), int(values["num_classes"])
        class_names = tuple(str(name) for name in values["class_names"])
        evaluation = view(values["evaluation"])
    except BadCheckpoint:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BadCheckpoint(f"its description is broken ({type(error).__name__}: {error}); write it again") from error
    return config, num_classes, class_names, evaluation
