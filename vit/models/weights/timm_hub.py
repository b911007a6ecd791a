"""config.json of timm's hub directories, both ways: which entry point of timm, with which arguments, is which network.

Written from the behaviour of timm 1.0.31 (models/_hub.py, models/_factory.py and the entry points named below).
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from vit.models.config import ViTConfig
from vit.models.resnet import ResNetConfig
from vit.models.weights import directory
from vit.models.weights.checkpoint import BadCheckpoint, Checkpoint

OURS = "vitflow"  # the entry of config.json for what timm fixes in code: it ignores it, we read it
EPSILONS = ("layer_norm_eps", "group_norm_eps", "standardize_eps", "standardize_eps_on")
LAYER_NORM_EPS = 1e-6  # timm.layers.LayerNorm; JSON cannot say another
GROUP_NORM_EPS, STANDARDIZE_EPS = 1e-5, 1e-8  # timm's BiT and hybrids alike, the second added to the variance
GELUS = {"gelu": "erf", "gelu_tanh": "tanh"}
POOLS = {"token": "tok", "avg": "gap", "map": "map"}
# Entry points that differ from what width and timm's defaults say, where a config.json does not spell it out.
ENTRY_POINTS: dict[str, dict[str, Any]] = {
    r"vit_base_patch16_gap_|vit_(so400m|giant|giantopt|gigantic)_": {"num_heads": 16},
    r"vit_base_patch(16|32)_siglip_gap_": {"num_heads": 12},
    r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip|vit_large_patch16_siglip_(gap_)?512": {"gelu": "tanh"},
}
# Entry points by width; every other size goes in as an argument.
VITS = {
    192: "vit_tiny_patch16_224",
    384: "vit_small_patch16_224",
    768: "vit_base_patch16_224",
    1024: "vit_large_patch16_224",
    1280: "vit_huge_patch14_224",
}
# Stages of hybrids and BiT are built into timm's entry points; a BiT has its factor of width built in, too.
HYBRIDS: dict[tuple[int, ...], str] = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
BITS: dict[tuple[int, ...], tuple[str, int]] = {
    (3, 4, 6, 3): ("resnetv2_50x1_bit", 1),
    (3, 4, 23, 3): ("resnetv2_101x1_bit", 1),
    (3, 8, 36, 3): ("resnetv2_152x2_bit", 2),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """What a config.json adds to names and shapes."""

    fields: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])  # of our config
    pooling: str | None = None
    image_size: tuple[int, int] = (0, 0)  # pixels, rows and columns; zeros: not told
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def told(values: Mapping[str, Any]) -> Told:
    """What a hub config.json adds to the weights beside it. Raises BadCheckpoint if no network of ours is meant."""
    architecture = values.get("architecture")
    if not isinstance(architecture, str):
        raise BadCheckpoint("config.json names no architecture, so it is not timm's; is it the right file?")
    with directory.well_formed():
        arguments: dict[str, Any] = dict(values.get("model_args") or {})
        pretrained: dict[str, Any] = dict(values.get("pretrained_cfg") or values)
        fields: dict[str, Any] = {}
        for pattern, fixed in ENTRY_POINTS.items():
            fields |= fixed if re.match(pattern, architecture) else {}
        ours = {name: value for name, value in dict(values.get(OURS) or {}).items() if name in EPSILONS}
        names = values.get("label_names") or pretrained.get("label_names") or ()
        return Told(
            fields=fields | _fields(arguments) | ours,
            pooling=None if architecture.startswith("resnetv2") else _pooling(values, arguments),
            image_size=_image_size(arguments.get("img_size") or pretrained.get("input_size")),
            class_names=tuple(str(name) for name in names),
            notes=_notes(architecture, pretrained),
        )


def beside(path: Path) -> Told:
    """What a config.json in the same folder as a file tells, if it is timm's. Raises BadCheckpoint as `told` does."""
    config = path.with_name(directory.CONFIG)
    values = directory.read_json(config) if config.is_file() else {}
    return told(values) if "architecture" in values else Told()


def description(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json with which timm builds the checkpoint's network. Raises BadCheckpoint if timm cannot."""
    config, num_classes = checkpoint.config, checkpoint.num_classes
    is_vit = isinstance(config, ViTConfig)
    architecture, arguments = _vit(config) if is_vit else _bit(config)
    names = {"label_names": list(checkpoint.class_names)} if checkpoint.class_names else {}
    pretrained = {
        "custom_load": False,
        "input_size": [3, config.resolution, config.resolution],
        "fixed_input_size": is_vit,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": num_classes,
        "pool_size": None,
        "first_conv": _first_conv(config),
        "classifier": "head" if is_vit else "head.fc",
    }
    return {
        "architecture": architecture,
        "num_classes": num_classes,
        "num_features": config.width if is_vit else config.num_features,
        "global_pool": arguments.get("global_pool", "avg"),
        **names,
        "model_args": {"num_classes": num_classes, "in_chans": 3} | arguments,
        "pretrained_cfg": pretrained,
        OURS: {name: getattr(part, name) for part in _parts(config) for name in EPSILONS if hasattr(part, name)},
    }


def differences(config: ViTConfig | ResNetConfig) -> list[str]:
    """What timm will compute otherwise than the config says, since its entry points fix it: one sentence each."""
    notes: list[str] = []
    resnet = config.stem if isinstance(config, ViTConfig) else config
    if isinstance(config, ViTConfig) and config.layer_norm_eps != LAYER_NORM_EPS:
        notes.append(f"timm's LayerNorm has eps {LAYER_NORM_EPS:g}, this network {config.layer_norm_eps:g}")
    if resnet and resnet.group_norm_eps != GROUP_NORM_EPS:
        notes.append(f"timm's GroupNorm has eps {GROUP_NORM_EPS:g}, this network {resnet.group_norm_eps:g}")
    if resnet and (resnet.standardize_eps, resnet.standardize_eps_on) != (STANDARDIZE_EPS, "variance"):
        notes.append(
            f"timm standardises weights with eps {STANDARDIZE_EPS:g} on the variance, "
            f"this network with {resnet.standardize_eps:g} on the {resnet.standardize_eps_on}"
        )
    return notes


def _parts(config: ViTConfig | ResNetConfig) -> list[ViTConfig | ResNetConfig]:
    """A config and its stem's."""
    return [config, config.stem] if isinstance(config, ViTConfig) and config.stem else [config]


def _vit(config: ViTConfig) -> tuple[str, dict[str, Any]]:
    """timm's entry point and its arguments for a ViT or hybrid."""
    stem = config.stem
    if stem is not None and (stem.layers not in HYBRIDS or stem.width_factor != 1):
        raise BadCheckpoint(
            f"timm has no hybrid whose ResNet has {stem.layers} units and {stem.width_factor} times the width; "
            f"write OUT.safetensors (weights alone) or the native format"
        )
    architecture = HYBRIDS[stem.layers] if stem else VITS.get(config.width, VITS[768])
    pools = {ours: theirs for theirs, ours in POOLS.items()}
    arguments: dict[str, Any] = {
        "img_size": config.resolution,
        "patch_size": config.patch_size,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": _mlp_ratio(config.mlp_dim, config.width),
        "class_token": config.pooling == "tok",
        "global_pool": pools[config.pooling],
        "fc_norm": False,
        "act_layer": {ours: theirs for theirs, ours in GELUS.items()}[config.gelu],
        "pos_embed": "learn" if config.position == "learned" else "none",
    }
    if config.dropout:
        arguments |= {"pos_drop_rate": config.dropout, "proj_drop_rate": config.dropout}
    return architecture, arguments


def _bit(config: ResNetConfig) -> tuple[str, dict[str, Any]]:
    """timm's entry point and its arguments for a BiT: fewer stages or other widths go in as channels."""
    for layers, (architecture, factor) in BITS.items():
        if config.flavour == "v2" and config.layers and layers[: len(config.layers)] == config.layers:
            channels = [256 * 2**stage * config.width_factor // factor for stage in range(len(config.layers))]
            stem = 64 * config.width_factor // factor
            return architecture, {"channels": channels, "stem_chs": stem, "global_pool": "avg"}
    raise BadCheckpoint(
        f"timm has no BiT of flavour {config.flavour} with {config.layers} units; "
        f"write OUT.safetensors (weights alone) or the native format"
    )


def _first_conv(config: ViTConfig | ResNetConfig) -> str:
    if not isinstance(config, ViTConfig):
        return "stem.conv"
    if config.stem is None:
        return "patch_embed.proj"
    return "patch_embed.backbone.stem.conv" if config.stem.layers else "patch_embed.backbone.conv"


def _mlp_ratio(mlp_dim: int, width: int) -> float:
    ratio = mlp_dim / width
    return ratio if int(width * ratio) == mlp_dim else (mlp_dim + 0.5) / width  # timm rounds the product down


def _fields(arguments: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "num_heads" in arguments:
        fields["num_heads"] = arguments["num_heads"]
    if "act_layer" in arguments:
        if arguments["act_layer"] not in GELUS:
            raise BadCheckpoint(f"config.json sets act_layer {arguments['act_layer']!r}; ours is {' or '.join(GELUS)}")
        fields["gelu"] = GELUS[arguments["act_layer"]]
    if arguments.get("pos_embed") == "none":
        fields["position"] = "none"
    if "proj_drop_rate" in arguments:
        fields["dropout"] = float(arguments["proj_drop_rate"])
    if norm := arguments.get("norm_layer"):
        raise BadCheckpoint(
            f"config.json sets norm_layer {norm!r}; our networks have the norms that timm has by default"
        )
    return fields


def _pooling(values: Mapping[str, Any], arguments: Mapping[str, Any]) -> str | None:
    pool = arguments.get("global_pool") or values.get("global_pool")
    if pool is not None and pool not in POOLS:
        raise BadCheckpoint(f"config.json sets global_pool {pool!r}; our networks have {', '.join(POOLS)}")
    return None if pool is None else POOLS[pool]


def _image_size(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    sides: list[Any] = list(cast(list[Any], size)) if isinstance(size, list | tuple) else []
    return (int(sides[-2]), int(sides[-1])) if len(sides) >= 2 else (0, 0)


def _notes(architecture: str, pretrained: Mapping[str, Any]) -> tuple[str, ...]:
    notes = [f"timm calls it {architecture}"]
    for name in ("mean", "std"):
        if (value := list(pretrained.get(name) or [0.5] * 3)) != [0.5] * 3:
            notes.append(f"it was trained with image {name} {value}, while ours is 0.5 throughout")
    return tuple(notes)
