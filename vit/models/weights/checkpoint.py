"""What a file of weights says once it is read: a config, a state dict under our names, and where it came from.

Every format module turns its file into a Checkpoint and back; from here on, formats no longer matter.
"""

import dataclasses
import difflib
import re
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, cast, get_args

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vit.data.views import View
from vit.models.build import Method, Model, ModelConfig, at_resolution, build, config_from_dict, resized
from vit.models.resnet import ResNetConfig
from vit.models.vit import ViTConfig

DRAWS = frozenset({"normal_", "uniform_", "trunc_normal_", "xavier_uniform_", "kaiming_uniform_"})
MAX_TOKENS = 2**20  # a table of fixed sines is made of a config alone
BLOCK = re.compile(r"Transformer/encoderblock_\d+/")
STACK = "Transformer/encoderblock/"  # of big_vision's scanned blocks
HEAD_PART = re.compile(r"((?:resnet/)?(?:head|classifier)[./].*?)(?:kernel|weight|bias)$")
MAX_LISTED = 40  # keys named per kind of fault; the rest is counted


class BadCheckpoint(ValueError):
    """A file that holds no network of ours; one sentence: the file, what is wrong, what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network as a file describes it, not yet built."""

    config: ModelConfig
    num_classes: int  # 0: the file has no head
    state: dict[str, Tensor]  # names and shapes of build(config, num_classes).state_dict(); dtypes as in the file
    origin: str  # what the file is, in words
    class_names: tuple[str, ...] = ()
    evaluation: View = "square"  # how an image is made into input where nothing is random (vit.data.augment)
    notes: tuple[str, ...] = ()  # what a reader should know: an assumption made, a head of zeros, …


def view(value: Any) -> View:
    """The value, if it names a way to show images; raises BadCheckpoint."""
    if value not in get_args(View):
        raise BadCheckpoint(f"its evaluation is {value!r}, which is none of {', '.join(get_args(View))}; update this")
    return value


def checked(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, if its names, shapes and types are those of the network that its config describes.

    Raises BadCheckpoint that lists unknown, missing and mis-shaped keys together.
    """
    config, num_classes = checkpoint.config, checkpoint.num_classes
    layers = sum(config.layers) if isinstance(config, ResNetConfig) else config.depth
    if layers > len(checkpoint.state) or num_classes < 0:
        raise BadCheckpoint(
            f"its config has {layers} layers and {num_classes} classes, but there are {len(checkpoint.state)} tensors; "
            "the file is damaged"
        )
    if isinstance(config, ViTConfig) and config.num_tokens > MAX_TOKENS:
        raise BadCheckpoint(f"its config has {config.num_tokens} tokens for one image; the file is damaged")
    compare(checkpoint.state, skeleton(config, num_classes))
    if checkpoint.class_names and len(checkpoint.class_names) != checkpoint.num_classes:
        raise BadCheckpoint(
            f"there are {len(checkpoint.class_names)} class names for a head of {checkpoint.num_classes} classes; "
            "one of the two belongs to another network"
        )
    return checkpoint


def skeleton(config: ModelConfig, num_classes: int) -> dict[str, Tensor]:
    """The state dict of a network without its values: meta tensors, at no cost.

    Raises BadCheckpoint if a tensor of it would be larger than torch can count.
    """
    try:
        return _unfilled(config, num_classes).state_dict()
    except (RuntimeError, TypeError, OverflowError) as error:
        raise BadCheckpoint(f"no memory holds the network that it describes ({config}); the file is damaged") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spelling:
    """How a file itself spells the keys that were read from it: their prefix, and blocks that are stacked."""

    prefix: str = ""
    stacked: bool = False  # one tensor for all encoder blocks

    def name(self, key: str) -> str:
        """The key as it stands in the file."""
        return self.prefix + (BLOCK.sub(STACK, key) if self.stacked else key)

    def shape(self, key: str, tensor: Tensor) -> str:
        """A tensor's shape; of a stacked one that of each layer."""
        return f"{list(tensor.shape)}{' a layer' * (self.stacked and BLOCK.match(key) is not None)}"


PLAIN = Spelling()


def compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, spelling: Spelling = PLAIN) -> None:
    """Raises BadCheckpoint listing every key that is unknown, missing, mis-shaped or no floating-point tensor."""
    shapes = [
        f"{spelling.name(name)} is {spelling.shape(name, found[name])}, not {list(tensor.shape)}"
        + _as_the_other_says(name, found, expected, spelling)
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    types = [
        f"{spelling.name(name)} is {str(found[name].dtype).removeprefix('torch.')}"
        for name in expected
        if name in found and not found[name].dtype.is_floating_point
    ]
    faults = {
        "unknown": [spelling.name(name) for name in found if name not in expected],
        "missing": [spelling.name(name) for name in expected if name not in found],
        "mis-shaped": shapes,
        "not of floating-point numbers": types,
    }
    distinct = {kind: list(dict.fromkeys(keys)) for kind, keys in faults.items()}
    listed = "; ".join(f"{len(keys)} {kind}: {_listed(keys)}" for kind, keys in distinct.items() if keys)
    if listed:
        raise BadCheckpoint(
            f"keys do not fit the network that the others describe ({listed}); "
            "the file is damaged or of a network that is none of the ViT paper's"
        )


def sides(found: Mapping[str, Tensor], pattern: str, axis: int) -> list[int]:
    """Lengths of one axis, counted from the last, of every tensor whose whole name fits."""
    fit = re.compile(pattern)
    return [tensor.shape[axis] for name, tensor in found.items() if tensor.ndim >= -axis and fit.fullmatch(name)]


def commonest(votes: Iterable[int], default: int) -> int:
    """The most frequent number, the first of several; `default` if there is none."""
    return statistics.mode([*votes] or [default])


def _as_the_other_says(
    name: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], spelling: Spelling
) -> str:
    """Kernel and bias of a head alone tell its classes: where they disagree, either may be the wrong one."""
    part = HEAD_PART.match(name)
    others = [key for key in expected if part and key != name and key.startswith(part[1]) and key in found]
    other = next((key for key in others if found[key].shape == expected[key].shape), None)
    return f" as {spelling.name(other)} {list(found[other].shape)} would have it" if other else ""


def describe(values: Mapping[str, Any], settings: Mapping[str, Any]) -> ModelConfig:
    """A config from what a file says and `settings` that overrule it: its fields, for a hybrid also its stem's.

    Raises ValueError if a setting is unknown, BadCheckpoint if no such network can exist.
    """
    values = dict(values)
    stem = cast(dict[str, Any] | None, values.get("stem"))
    if stem is not None:
        values["stem"] = stem = dict(stem)
    for name, value in settings.items():
        if name in values:
            values[name] = value
        elif stem is not None and name in stem:
            stem[name] = value
        else:
            known = [*values, *(stem or {}), "resize", "grid"]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"there is no setting {name!r} for this file; the nearest is {near!r}")
    try:
        return config_from_dict(values)
    except ValueError as error:
        raise BadCheckpoint(f"it describes no possible network ({error})") from error


def instantiate(checkpoint: Checkpoint) -> Model:
    """The network of a checkpoint: eval mode, float32, on the CPU, its memory its own.

    Built on the meta device, because initial values that are overwritten at once cost more than reading the file.
    """
    model = _unfilled(checkpoint.config, checkpoint.num_classes)
    state = {
        name: torch.empty(tensor.shape, dtype=torch.float32, device="cpu").copy_(tensor.detach())
        for name, tensor in checkpoint.state.items()
    }
    model.load_state_dict(state, assign=True)
    return model.eval()


def at(checkpoint: Checkpoint, resolution: int, *, method: Method = "official") -> Checkpoint:
    """The checkpoint for square images of another side in pixels, position embeddings resized (paper §3.2).

    Raises ValueError if its patches do not fit.
    """
    if resolution == checkpoint.config.resolution:
        return checkpoint
    old = checkpoint.config
    is_resnet = isinstance(old, ResNetConfig)
    config = dataclasses.replace(old, resolution=resolution) if is_resnet else at_resolution(old, resolution)
    state = resized(checkpoint.state, old, config, method)
    return dataclasses.replace(checkpoint, config=config, state=state)


def with_new_head(checkpoint: Checkpoint, num_classes: int) -> Checkpoint:
    """The checkpoint for transfer: no representation layer, a head of zeros for other classes (paper §3.2)."""
    config = checkpoint.config
    if isinstance(config, ViTConfig):
        config = dataclasses.replace(config, representation=False)
    body = {name: tensor for name, tensor in checkpoint.state.items() if not name.startswith(("head.", "pre_logits."))}
    head = {
        name: torch.zeros(tensor.shape, device="cpu")
        for name, tensor in skeleton(config, num_classes).items()
        if name.startswith("head.")
    }
    return dataclasses.replace(checkpoint, config=config, num_classes=num_classes, state=body | head, class_names=())


def zero_head_notes(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A note if the head is all zeros, as in the authors' first ImageNet-21k files, whose logits are thus lost."""
    head = next((state[name] for name in ("head.weight", "head.fc.weight") if name in state), None)
    if head is None or head.is_meta or head.numel() == 0 or bool(head.any()):
        return ()
    return ("the head is all zeros, so the logits say nothing; the features do",)


class _NothingDrawn(TorchFunctionMode):
    """Leaves out random initial values: meta tensors have none, and torch's way to find that out for normal_ is to
    import its compiler, which takes seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _unfilled(config: ModelConfig, num_classes: int) -> Model:
    with torch.device("meta"), _NothingDrawn():
        return build(config, num_classes)


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - MAX_LISTED} more" if len(keys) > MAX_LISTED else ""
    return ", ".join(keys[:MAX_LISTED]) + more
