"""timm's state dicts, both ways: ViT, hybrids and BiT; timm_hub.py holds the config.json that goes with them.

Our networks bear timm's names, so tensors pass unchanged. What is known here is what those names leave out (heads,
GELU, epsilons, resolution) and which of timm's many relatives of these networks are none of the paper's.
Written from the behaviour of timm 1.0.31: vision_transformer.py, vision_transformer_hybrid.py, resnetv2.py.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vit.models.config import ViTConfig
from vit.models.weights import directory, files, native, timm_hub, timm_positions
from vit.models.weights.checkpoint import BadCheckpoint, Checkpoint, commonest, describe, sides

# By width, where all of timm's ViTs of that width agree: Ti, S, B, L, H and those between and beyond.
HEADS = {
    192: 3,
    256: 4,
    320: 5,
    384: 6,
    512: 8,
    640: 10,
    768: 12,
    832: 13,
    896: 14,
    1024: 16,
    1152: 16,
    1280: 16,
    1408: 16,
    1664: 16,
}
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
    return (_some(tensors, r"patch_embed\.") and _some(tensors, r"blocks\.\d+\.(norm1|attn|mlp)\.")) or _is_resnet(
        tensors
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
    variant's, position="none" and resolution if there is no table, and grid=(rows, columns) of one that is not square.
    Without them timm's own numerics hold: erf-GELU, LayerNorm eps 1e-6; in every ResNet GroupNorm eps 1e-5 and weight
    standardisation eps 1e-8.
    Raises BadCheckpoint if the network is none of the paper's or a setting is missing.
    """
    _refuse_foreign(tensors)
    kind = _parse_resnet if _is_resnet(tensors) else _parse_vit
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

    OUT.safetensors, OUT.pth, OUT.pt and OUT.bin hold the weights with our description where timm does not see it;
    any other OUT is a new directory for `timm.create_model("local-dir:OUT", pretrained=True)`, toys included.
    Raises BadCheckpoint for what timm cannot build.
    """
    state = emit(checkpoint)
    if out.suffix == ".safetensors":
        native.write(out, checkpoint)
    elif out.suffix in {".pth", ".pt", ".bin"}:
        files.write_torch(out, state, native.description(checkpoint))
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
    width = commonest(
        sides(tensors, r"(blocks\.\d+\.)?norm\d?\.(weight|bias)|patch_embed\.proj\.bias|cls_token", -1), 1
    )
    patch_size = commonest(sides(tensors, r"patch_embed\.proj\.weight", -1), 1)
    hybrid = any(key.startswith(BACKBONE) for key in tensors)
    stem = _resnet_values(tensors, BACKBONE) if hybrid else None
    state, notes = dict(tensors), list(told.notes)
    state |= _absent_biases(tensors, notes)
    pixels = patch_size * (4 * 2 ** max(len(stem["layers"]) - 1, 0) if stem else 1)
    has_class_token = timm_positions.has_class_token(tensors, settings.get("grid", _cells(told.image_size, pixels)))
    resolution = timm_positions.square(state, told.image_size, pixels, has_class_token, settings, notes)
    values: dict[str, Any] = {
        "family": "vit",
        "resolution": resolution,
        "patch_size": patch_size,
        "stem": stem | {"resolution": resolution} if stem else None,
        "width": width,
        "depth": _count(tensors, rf"blocks\.{NUMBER}\."),
        "num_heads": None,
        "mlp_dim": commonest(_mlp_sides(tensors), 1),
        "pooling": _pooling(tensors, has_class_token, told.pooling),
        "representation": _some(tensors, r"pre_logits\.fc\."),
        "position": "learned",
        "position_at": "stem",
        "gelu": "erf",
        "layer_norm_eps": timm_hub.LAYER_NORM_EPS,
        "dropout": 0.0,
    }
    notes += _gelu_notes(told.fields | settings)
    values["num_heads"] = (told.fields | settings).get("num_heads") or _num_heads(width, values["pooling"])
    num_classes = _classes(tensors, r"head\.", -2)
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
    num_classes = _classes(tensors, r"head\.fc\.", -4)
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
    inner = re.escape(prefix)
    alone = prefix and _some(tensors, rf"{inner}(conv|norm)\.")  # R+Ti/16: the root block alone
    root = inner if alone else rf"{inner}stem\."
    stages = rf"{re.escape(prefix)}stages\."
    units = [
        _count(tensors, rf"{stages}{stage}\.blocks\.{NUMBER}\.")
        for stage in range(_count(tensors, rf"{stages}{NUMBER}\."))
    ]
    widths = sides(tensors, rf"{root}conv\.weight|{stages}0\.blocks\.\d+\.conv[12]\.weight", -4)
    widths += sides(tensors, rf"{root}norm\.\w+", -1)
    return {
        "family": "resnet",
        "resolution": RESOLUTION,
        "layers": units,
        "width_factor": commonest(widths, 64) // 64,
        "flavour": "v1" if _some(tensors, rf"{root}norm\.") else "v2",
        "group_norm_eps": timm_hub.GROUP_NORM_EPS,
        "standardize_eps": timm_hub.STANDARDIZE_EPS,
        "standardize_eps_on": "variance",
    }


def _class_names(told: timm_hub.Told, num_classes: int, notes: list[str]) -> tuple[str, ...]:
    if len(told.class_names) in {0, num_classes}:
        return told.class_names
    notes.append(f"{len(told.class_names)} class names do not fit a head of {num_classes} classes and are left out")
    return ()


def _pooling(tensors: Mapping[str, Tensor], has_class_token: bool, told: str | None) -> str:
    pooling = "map" if _some(tensors, r"attn_pool\.") else "tok" if has_class_token else "gap"
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


def _cells(image_size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """Rows and columns of patches, rounded up as a hybrid's are; zeros where nothing is told."""
    return -(-image_size[0] // pixels), -(-image_size[1] // pixels)


def _gelu_notes(said: Mapping[str, Any]) -> list[str]:
    if "gelu" in said:
        return []
    return ["timm computes erf-GELU where nothing else is said; the authors' own code computes its tanh form"]


def _classes(tensors: Mapping[str, Tensor], head: str, axis: int) -> int:
    return commonest(sides(tensors, rf"{head}weight", axis) + sides(tensors, rf"{head}bias", -1), 0)


def _mlp_sides(tensors: Mapping[str, Tensor]) -> list[int]:
    first = sides(tensors, r"blocks\.\d+\.mlp\.fc1\.weight", -2) + sides(tensors, r"blocks\.\d+\.mlp\.fc1\.bias", -1)
    return first + sides(tensors, r"blocks\.\d+\.mlp\.fc2\.weight", -1)


def _some(names: Iterable[str], start: str) -> bool:
    return any(re.match(start, name) for name in names)


def _is_resnet(names: Iterable[str]) -> bool:
    return _some(names, r"stages\.\d+\.blocks\.\d+\.(conv|norm)[1-3]\.") and not _some(
        names, r"patch_embed\.|stem\.(?!conv\.|norm\.)"
    )


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the highest number that the pattern finds; whether all below are there is checked later."""
    count = 1 + max((int(match[1]) for key in tensors if (match := re.match(pattern, key))), default=-1)
    if count > len(tensors):
        raise BadCheckpoint(f"names count up to {count - 1} with {len(tensors)} tensors in all; the file is damaged")
    return count
