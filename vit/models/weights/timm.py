"""timm's state dicts, both ways: ViT, hybrids and BiT; timm_hub.py holds the config.json that goes with them.

Our networks bear timm's names, so tensors pass unchanged. What is known here is what those names leave out (heads,
GELU, epsilons, resolution) and which of timm's many relatives of these networks are none of the paper's.
Written from the behaviour of timm 1.0.31: vision_transformer.py, vision_transformer_hybrid.py, resnetv2.py.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vit.models.config import ViTConfig
from vit.models.position import resize_pos_embed
from vit.models.weights import directory, files, native, timm_hub
from vit.models.weights.checkpoint import BadCheckpoint, Checkpoint, describe

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}  # by width: Ti, S, B, L, H
RESOLUTION = 224  # pixels, of a ResNet whose file does not say
BACKBONE = "patch_embed.backbone."
NUMBER = r"(\d{1,9})"
# What timm's relatives have and no network of the paper does. Anything else unknown is for `checked` to list.
FOREIGN = {
    r"\.ls[12]\.gamma$|\.gamma_[12]$": "LayerScale",
    r"^reg_token$": "register tokens",
    r"\.[qk]_norm\.": "normalised queries and keys",
    r"^fc_norm\.": "a norm after pooling instead of before",
    r"^norm_pre\.": "a norm before the blocks",
    r"^dist_token$|^head_dist\.": "a distillation token",
    r"relative_position_bias_table$|rel_pos": "relative position biases",
    r"running_mean$": "BatchNorm",
}


def claims(tensors: Mapping[str, Any]) -> bool:
    """Whether the names are those of a timm ViT, hybrid or ResNetV2."""
    return {"patch_embed.proj.weight", "blocks.0.norm1.weight"} <= set(tensors) or (
        "stem.conv.weight" in tensors and "stages.0.blocks.0.conv1.weight" in tensors
    )


def read(path: Path, **settings: Any) -> Checkpoint:
    """A directory of timm's hub layout, or one file of weights with or without such a config.json beside it.

    Settings are those of `parse`; one that is given wins over what config.json says. Raises BadCheckpoint.
    """
    if path.is_dir():
        told = timm_hub.told(directory.read_json(path / directory.CONFIG))
        return parse(directory.read_weights(path), told=told, **settings)
    return parse(files.read_tensors(path), told=timm_hub.beside(path), **settings)


def parse(tensors: Mapping[str, Tensor], *, told: timm_hub.Told | None = None, **settings: Any) -> Checkpoint:
    """A timm state dict, and what the hub's config.json told about it, as one of our networks.

    Settings are fields of its config that names and shapes cannot tell, above all num_heads where the width is no
    variant's, and grid=(rows, columns) of a position table that is not square. Without them timm's own numerics hold:
    erf-GELU, LayerNorm eps 1e-6; in every ResNet GroupNorm eps 1e-5 and weight standardisation eps 1e-8.
    Raises BadCheckpoint if the network is none of the paper's or a setting is missing.
    """
    _refuse_foreign(tensors)
    kind = _parse_resnet if "stem.conv.weight" in tensors else _parse_vit
    return kind(tensors, told or timm_hub.Told(), dict(settings))


def emit(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The state dict that timm loads. Raises BadCheckpoint for a network that timm does not have."""
    config = checkpoint.config
    if isinstance(config, ViTConfig):
        if config.representation:
            raise BadCheckpoint(
                "timm has dropped the representation layer, so its logits would differ; "
                "write the native format, or load with another num_classes first, which drops the layer"
            )
        if config.position not in {"learned", "none"} or config.position_at != "stem":
            raise BadCheckpoint(
                f"timm adds learned positions once or none at all, not {config.position!r} at "
                f"{config.position_at!r}; write the native format"
            )
    return dict(checkpoint.state)


def write(checkpoint: Checkpoint, out: Path) -> list[str]:
    """Writes for timm, and returns notes on what it will compute otherwise than the checkpoint's own config says.

    OUT.safetensors holds the weights with our description in its metadata; OUT.pth (or .bin) the weights alone;
    any other OUT is a new directory for `timm.create_model("local-dir:OUT", pretrained=True)`, toys included.
    Raises BadCheckpoint for what timm cannot build.
    """
    state = emit(checkpoint)
    if out.suffix == ".safetensors":
        native.write(out, checkpoint)
    elif out.suffix in {".pth", ".bin"}:
        plain = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
        }
        with files.replacing(out) as partial, partial.open("wb") as file:
            torch.save(plain, file)
    else:
        directory.write(out, state, {directory.CONFIG: timm_hub.description(checkpoint)})
    return timm_hub.differences(checkpoint.config)


def _refuse_foreign(tensors: Mapping[str, Tensor]) -> None:
    first = {what: next((key for key in tensors if re.search(pattern, key)), None) for pattern, what in FOREIGN.items()}
    found = {what: key for what, key in first.items() if key}
    if found:
        parts = ", ".join(f"{what} ({key})" for what, key in found.items())
        raise BadCheckpoint(
            f"the timm state dict has {parts}: no network of the ViT paper does; use timm for this file"
        )


def _parse_vit(tensors: Mapping[str, Tensor], told: timm_hub.Told, settings: dict[str, Any]) -> Checkpoint:
    width, _, _, patch_size = _shape(tensors, "patch_embed.proj.weight", 4)
    hybrid = any(key.startswith(BACKBONE) for key in tensors)
    stem = _resnet_values(tensors, BACKBONE) if hybrid else None
    state, notes = dict(tensors), list(told.notes)
    state |= _absent_biases(tensors, notes)
    pixels = patch_size * (4 * 2 ** max(len(stem["layers"]) - 1, 0) if stem else 1)
    resolution = _square(state, told.image_size, pixels, settings, notes)
    values: dict[str, Any] = {
        "family": "vit",
        "resolution": resolution,
        "patch_size": patch_size,
        "stem": stem | {"resolution": resolution} if stem else None,
        "width": width,
        "depth": _count(tensors, rf"blocks\.{NUMBER}\."),
        "num_heads": None,
        "mlp_dim": _shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
        "pooling": _pooling(tensors, told.pooling),
        "representation": "pre_logits.fc.weight" in tensors,
        "position": "learned" if "pos_embed" in tensors else "none",
        "position_at": "stem",
        "gelu": "erf",
        "layer_norm_eps": timm_hub.LAYER_NORM_EPS,
        "dropout": 0.0,
    }
    if "gelu" not in told.fields | settings:
        notes.append("timm computes erf-GELU where nothing else is said; the authors' own code computes its tanh form")
    values["num_heads"] = (told.fields | settings).get("num_heads") or _num_heads(width, values["pooling"])
    num_classes = _shape(tensors, "head.weight", 2)[0] if "head.weight" in tensors else 0
    return Checkpoint(
        config=describe(values, told.fields | settings),
        num_classes=num_classes,
        state=state,
        origin="timm state dict",
        class_names=_class_names(told, num_classes, notes),
        notes=tuple(notes),
    )


def _parse_resnet(tensors: Mapping[str, Tensor], told: timm_hub.Told, settings: dict[str, Any]) -> Checkpoint:
    values, notes = _resnet_values(tensors, ""), list(told.notes)
    values["resolution"] = told.image_size[0] or RESOLUTION
    if not told.image_size[0] and "resolution" not in settings:
        notes.append(f"a ResNet's weights do not say its resolution; {RESOLUTION} pixels are assumed")
    num_classes = _shape(tensors, "head.fc.weight", 4)[0] if "head.fc.weight" in tensors else 0
    return Checkpoint(
        config=describe(values, told.fields | settings),
        num_classes=num_classes,
        state=dict(tensors),
        origin="timm state dict of a ResNetV2",
        class_names=_class_names(told, num_classes, notes),
        notes=tuple(notes),
    )


def _resnet_values(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Fields of a ResNetConfig but for its resolution, from names and shapes."""
    root = prefix if prefix and f"{prefix}conv.weight" in tensors else f"{prefix}stem."  # R+Ti/16: the root block alone
    stages = rf"{re.escape(prefix)}stages\."
    units = [
        _count(tensors, rf"{stages}{stage}\.blocks\.{NUMBER}\.")
        for stage in range(_count(tensors, rf"{stages}{NUMBER}\."))
    ]
    return {
        "family": "resnet",
        "resolution": RESOLUTION,
        "layers": units,
        "width_factor": _shape(tensors, f"{root}conv.weight", 4)[0] // 64,
        "flavour": "v1" if f"{root}norm.weight" in tensors else "v2",
        "group_norm_eps": timm_hub.GROUP_NORM_EPS,
        "standardize_eps": timm_hub.STANDARDIZE_EPS,
        "standardize_eps_on": "variance",
    }


def _class_names(told: timm_hub.Told, num_classes: int, notes: list[str]) -> tuple[str, ...]:
    if len(told.class_names) in {0, num_classes}:
        return told.class_names
    notes.append(f"{len(told.class_names)} class names do not fit a head of {num_classes} classes and are left out")
    return ()


def _pooling(tensors: Mapping[str, Tensor], told: str | None) -> str:
    pooling = "map" if "attn_pool.latent" in tensors else "tok" if "cls_token" in tensors else "gap"
    if pooling != "tok" and "cls_token" in tensors:
        raise BadCheckpoint("the timm state dict has both cls_token and attn_pool; our networks have one or the other")
    if told not in {None, pooling}:
        raise BadCheckpoint(
            f"config.json pools by {told!r}, but the weights are of a network that pools by {pooling!r}: "
            f"no network of the ViT paper does that; use timm for this file"
        )
    return pooling


def _num_heads(width: int, pooling: str) -> int:
    # timm's vit_base_patch16_gap_224 has 16 heads, its vit_base_patch16_siglip_gap_224 has 12: width alone cannot tell.
    if width not in HEADS or (width, pooling) == (768, "gap"):
        raise BadCheckpoint(
            f"a timm state dict does not say how many heads it has, and width {width} with pooling {pooling!r} "
            f"is not enough to know; pass num_heads"
        )
    return HEADS[width]


def _absent_biases(tensors: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """timm's qkv_bias=False, in every block or in none. Zeros are the same network."""
    kernels = [key for key in tensors if key.endswith(".attn.qkv.weight")]
    if any(key.endswith(".attn.qkv.bias") for key in tensors):
        return {}
    notes.append("queries, keys and values have no bias in the file; ours of zeros are the same network")
    return {key.replace("weight", "bias"): tensors[key].new_zeros(tensors[key].shape[:1]) for key in kernels}


def _square(
    state: dict[str, Tensor], image_size: tuple[int, int], pixels: int, settings: dict[str, Any], notes: list[str]
) -> int:
    """Pixels of one side; takes resolution and grid out of settings, and makes a table square that is not."""
    wanted: int = settings.pop("resolution", 0)
    grid: tuple[int, int] = settings.pop("grid", (-(-image_size[0] // pixels), -(-image_size[1] // pixels)))
    if "pos_embed" not in state:
        if not wanted and (grid[0] != grid[1] or not grid[0]):
            raise BadCheckpoint("the timm state dict has no pos_embed that would tell its resolution; pass resolution")
        return wanted or image_size[0]
    _give_class_token_a_position(state, grid[0] * grid[1], notes)
    prefix = int("cls_token" in state)
    rows, columns = _grid(state["pos_embed"].shape[1] - prefix, grid)
    if rows == columns:
        exact = image_size[0] == image_size[1] and -(-image_size[0] // pixels) == rows  # a hybrid's grid rounds up
        return wanted or (image_size[0] if exact else rows * pixels)
    side = -(-wanted // pixels) or max(rows, columns)
    state["pos_embed"] = resize_pos_embed(
        state["pos_embed"], side, num_prefix_tokens=prefix, source=(rows, columns), method="timm"
    )
    notes.append(f"position embeddings of {rows} x {columns} patches were resized to {side} x {side}, timm's way")
    return wanted or side * pixels


def _grid(patches: int, told: tuple[int, int]) -> tuple[int, int]:
    rows, columns = told
    if rows == columns:  # older descriptions tell the size of the entry point, not of the weights
        rows = columns = math.isqrt(patches)
    if rows * columns != patches:
        raise BadCheckpoint(
            f"pos_embed is for {patches} patches, no grid of {rows} x {columns}; "
            f"pass grid=(rows, columns) if the images were not square"
        )
    return rows, columns


def _give_class_token_a_position(state: dict[str, Tensor], patches: int, notes: list[str]) -> None:
    """timm's no_embed_class: a table for patches only. Zeros before it are the same network."""
    table = state["pos_embed"]
    count = table.shape[1]
    patches_only = count == patches or (count != patches + 1 and math.isqrt(count) ** 2 == count)
    if "cls_token" in state and patches_only:
        state["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
        notes.append("the class token had no position embedding and was given zeros, which is the same network")


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the highest number that the pattern finds; whether all below are there is checked later."""
    count = 1 + max((int(match[1]) for key in tensors if (match := re.match(pattern, key))), default=-1)
    if count > len(tensors):
        raise BadCheckpoint(f"names count up to {count - 1} with {len(tensors)} tensors in all; the file is damaged")
    return count


def _shape(tensors: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in tensors or tensors[name].ndim != dimensions:
        found = f"has shape {list(tensors[name].shape)}" if name in tensors else "is missing"
        raise BadCheckpoint(
            f"in the timm state dict {name}, a tensor of {dimensions} dimensions, {found}; is it whole?"
        )
    return tuple(tensors[name].shape)
