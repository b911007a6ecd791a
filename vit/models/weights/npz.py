"""The authors' ViT files (.npz of vision_transformer), hybrids included, in every spelling that was released.

Before Flax's Linen a block's layers were numbered through (LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2,
MlpBlock_3); since then each kind is numbered by itself. The released files, AugReg's too, have the old names, and so
does what is written here. Checkpoints of training runs put opt/target/ or params/ before every name.
Key table: paper.md 7.1. Numerics: paper.md 1.3, of hybrids 1.7.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from vit.models.config import ViTConfig
from vit.models.position import resize_pos_embed
from vit.models.weights import bit, layout
from vit.models.weights.checkpoint import BadCheckpoint, Checkpoint, commonest, describe, sides, zero_head_notes
from vit.models.weights.layout import Rule

PREFIXES = ("", "opt/target/", "params/", "params/img/", "img/")  # img: the image tower of a pair (SigLIP)
TABLES = ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding", "pos_embedding")  # oldest first
BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/")
MAP_HEAD = "MAPHead_0/"
STEM = re.compile(r"(conv_root|gn_root|block\d+/unit\d+)/")
HEAD = ("head/kernel", "head/bias")
RESOLUTION = 224  # pixels, of a file whose positions do not tell


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
    """The spelling of one file."""

    attention: str
    norm2: str
    mlp: str
    table: str  # of position embeddings
    covers_class: bool  # whether the table has a row for the class token


RELEASED = Names(
    attention="MultiHeadDotProductAttention_1",
    norm2="LayerNorm_2",
    mlp="MlpBlock_3",
    table=TABLES[0],
    covers_class=True,
)
LINEN = Names(
    attention="MultiHeadDotProductAttention_0",
    norm2="LayerNorm_1",
    mlp="MlpBlock_0",
    table=TABLES[0],
    covers_class=True,
)


def claims(tensors: Mapping[str, Any]) -> bool:
    """Whether the names are those of vision_transformer, not of the later big_vision."""
    prefix = prefix_of(tensors)
    return prefix is not None and not is_big_vision(inside(tensors, prefix))


def parse(tensors: Mapping[str, Tensor], **settings: Any) -> Checkpoint:
    """A ViT or hybrid from a file of the authors.

    `settings`: fields of the config that a file cannot say (gelu, dropout, position="none" if the file has no table, …)
    and grid=(rows, columns) of a position table that is not square, which becomes so, for resolution if that is given.
    Raises BadCheckpoint listing unknown, missing and mis-shaped keys.
    """
    prefix = prefix_of(tensors) or ""
    found = inside(tensors, prefix)
    is_old = has_old_names(found)
    table = next((table for table in TABLES if table in found), TABLES[0])
    names = dataclasses.replace(RELEASED if is_old else LINEN, table=table)
    origin = f"official .npz, {'old' if is_old else 'Linen'} names"
    return network(found, names, settings, origin, outside(tensors, prefix), layout.Spelling(prefix=prefix))


def emit(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The layout of the released ImageNet-21k files. Raises BadCheckpoint if it cannot express the network."""
    config = checkpoint.config
    if not isinstance(config, ViTConfig) or config.pooling == "map":
        raise BadCheckpoint("the authors' ViT .npz has neither ResNets nor MAP pooling; write another format")
    if config.position not in ("none", "learned") or config.position_at != "stem":
        raise BadCheckpoint(
            f"the authors' .npz has no positions {config.position!r} at {config.position_at!r}; write the native format"
        )
    return layout.write(rules(config, checkpoint.num_classes, RELEASED), checkpoint.state)


def prefix_of(tensors: Mapping[str, Any]) -> str | None:
    """What stands before every name of the network; None if there is no ViT in JAX's names."""
    marks = ("Transformer/encoderblock", "embedding/kernel")  # not one key alone, which may be what is missing
    return next((prefix for prefix in PREFIXES if any(_starts(tensors, prefix + mark) for mark in marks)), None)


def inside(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What lies under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def is_big_vision(names: Mapping[str, Any]) -> bool:
    """Whether names without prefix have what only big_vision has."""
    return (
        "pos_embedding" in names
        or _starts(names, MAP_HEAD)
        or _starts(names, layout.STACK)
        or (not any(table in names for table in TABLES) and not has_old_names(names))
    )


def has_old_names(names: Mapping[str, Any]) -> bool:
    """Whether blocks are spelt as before Linen."""
    return any(f"/{part}/" in name for name in names for part in (RELEASED.attention, RELEASED.norm2, RELEASED.mlp))


def outside(tensors: Mapping[str, Any], prefix: str) -> tuple[str, ...]:
    """A note on what lies beside the network: an optimiser's state, a text tower, counters."""
    others = sorted(name for name in tensors if not name.startswith(prefix))
    if not others:
        return ()
    return (
        f"{len(others)} tensors outside {prefix} were left out: {', '.join(others[:5])}{', …' * (len(others) > 5)}",
    )


def network(
    found: dict[str, Tensor],
    names: Names,
    settings: Mapping[str, Any],
    origin: str,
    notes: tuple[str, ...],
    spelling: layout.Spelling,
) -> Checkpoint:
    """The checkpoint from tensors without prefix, flat and of one spelling; also for big_vision's files."""
    settings = dict(settings)
    found = bit.squeezed(found)
    values = _sizes(found, names, settings.get("grid"))
    stem: dict[str, Any] | None = values["stem"]
    pixels = values["patch_size"] * (4 * 2 ** max(len(stem["layers"]) - 1, 0) if stem else 1)
    grid: tuple[int, int] | None = settings.pop("grid", None)
    resolution: int | None = settings.pop("resolution", None)
    if names.table in found and found[names.table].ndim == 3:
        cls = int(values["pooling"] == "tok" and names.covers_class)
        side = -(-resolution // pixels) if resolution else None
        table, shown = _square(found[names.table], cls, grid, side, spelling.name(names.table))
        found[names.table] = table
        notes += shown
        resolution = resolution or math.isqrt(table.shape[1] - cls) * pixels
    elif resolution is None:
        resolution = max(round(RESOLUTION / pixels), 1) * pixels
        notes += (f"the file does not say its resolution; {resolution} is assumed",)
    values["resolution"] = resolution
    if stem is not None:
        stem["resolution"] = resolution
    config = describe(values, settings)
    assert isinstance(config, ViTConfig)
    num_classes = commonest([found[name].shape[-1] for name in HEAD if name in found and found[name].ndim], 0)
    state = layout.read(rules(config, num_classes, names), found, config, num_classes, spelling=spelling)
    notes += zero_head_notes(state)
    return Checkpoint(config=config, num_classes=num_classes, state=state, origin=origin, notes=notes)


def rules(config: ViTConfig, num_classes: int, names: Names) -> list[Rule]:
    """Where each parameter of a ViT lies in a file of this spelling."""
    rules = layout.dense("patch_embed.proj", "embedding", "conv")
    if config.stem is not None:
        rules += bit.stem_rules(config.stem, "patch_embed.backbone.")
    if config.pooling == "tok":
        rules.append(Rule("cls_token", ("cls",)))
    if config.position == "learned":
        covers = config.pooling != "tok" or names.covers_class
        rules.append(Rule("pos_embed", (names.table,), "same" if covers else "patches_only"))
    for number in range(config.depth):
        ours, theirs = f"blocks.{number}", f"Transformer/encoderblock_{number}"
        rules += layout.affine(f"{ours}.norm1", f"{theirs}/LayerNorm_0")
        rules += layout.heads(
            f"{ours}.attn.qkv", f"{theirs}/{names.attention}", ("query", "key", "value"), config.num_heads
        )
        rules += layout.heads_out(f"{ours}.attn.proj", f"{theirs}/{names.attention}", config.num_heads)
        rules += layout.affine(f"{ours}.norm2", f"{theirs}/{names.norm2}")
        rules += _mlp(f"{ours}.mlp", f"{theirs}/{names.mlp}")
    rules += layout.affine("norm", "Transformer/encoder_norm")
    if config.pooling == "map":
        rules += _map_head(config.num_heads)
    if config.representation:
        rules += layout.dense("pre_logits.fc", "pre_logits")
    return rules + (layout.dense("head", "head") if num_classes else [])


def _mlp(ours: str, theirs: str) -> list[Rule]:
    return layout.dense(f"{ours}.fc1", f"{theirs}/Dense_0") + layout.dense(f"{ours}.fc2", f"{theirs}/Dense_1")


def _map_head(num_heads: int) -> list[Rule]:
    attention = "MAPHead_0/MultiHeadDotProductAttention_0"
    return [
        Rule("attn_pool.latent", ("MAPHead_0/probe",)),
        *layout.heads("attn_pool.q", attention, ("query",), num_heads),
        *layout.heads("attn_pool.kv", attention, ("key", "value"), num_heads),
        *layout.heads_out("attn_pool.proj", attention, num_heads),
        *layout.affine("attn_pool.norm", "MAPHead_0/LayerNorm_0"),
        *_mlp("attn_pool.mlp", "MAPHead_0/MlpBlock_0"),
    ]


def _sizes(found: Mapping[str, Tensor], names: Names, grid: tuple[int, int] | None) -> dict[str, Any]:
    """Fields of the config, all but the resolution, from keys and shapes.

    Every size is what most tensors say, so that a missing or mis-shaped one is told from the sound ones.
    """
    depth = 1 + max((int(match[1]) for name in found if (match := BLOCK.match(name))), default=-1)
    if not 0 < depth <= len(found):
        raise BadCheckpoint(f"it has {depth} encoder blocks in {len(found)} tensors; the file is damaged")
    attention, mlp = names.attention, names.mlp
    width = sides(
        found, r"cls|embedding/(kernel|bias)|Transformer/(encoderblock_\d+/LayerNorm_\d|encoder_norm)/\w+", -1
    )
    heads = sides(found, rf".*/{attention}/(query|key|value)/(kernel|bias)", -2)
    heads += sides(found, rf".*/{attention}/out/kernel", -3)
    mlp_dim = sides(found, rf".*/{mlp}/Dense_0/(kernel|bias)", -1) + sides(found, rf".*/{mlp}/Dense_1/kernel", -2)
    return {
        "family": "vit",
        "patch_size": commonest(sides(found, "embedding/kernel", -4), 1),
        "stem": _stem(found) if any(STEM.match(name) for name in found) else None,
        "width": commonest(width, 1),
        "depth": depth,
        "num_heads": commonest(heads, 1),
        "mlp_dim": commonest(mlp_dim, 1),
        "pooling": "map" if _starts(found, MAP_HEAD) else "tok" if _has_class_token(found, names, grid) else "gap",
        "representation": _starts(found, "pre_logits/"),
        "position": "learned" if names.table in found or names.covers_class else "sincos2d",
        "position_at": "stem",
        "gelu": "tanh",
        "layer_norm_eps": 1e-6,
        "dropout": 0.0,
    }


def _has_class_token(found: Mapping[str, Tensor], names: Names, grid: tuple[int, int] | None) -> bool:
    """Whether there is one, or a position for one: then it is missing."""
    table = found.get(names.table)
    if "cls" in found or table is None or table.ndim != 3 or not names.covers_class:
        return "cls" in found
    patches = table.shape[1] - 1
    return patches == math.prod(grid) if grid else patches > 0 and math.isqrt(patches) ** 2 == patches


def _stem(found: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"family": "resnet", "layers": bit.stages(found), "width_factor": bit.width_factor(found), **bit.V1}


def _starts(names: Iterable[str], start: str) -> bool:
    return any(name.startswith(start) for name in names)


def _square(
    table: Tensor, cls: int, grid: tuple[int, int] | None, side: int | None, name: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Position embeddings [1, N, D] as those of a square grid, and a note if they were not."""
    patches = table.shape[1] - cls if table.ndim == 3 else 0
    if grid is None:
        if patches < 1 or math.isqrt(patches) ** 2 != patches:
            raise BadCheckpoint(
                f"{name} is {list(table.shape)}, {patches} patches of no square grid; pass grid=(rows, columns)"
            )
        return table, ()
    rows, columns = grid
    if rows * columns != patches:
        raise BadCheckpoint(f"{name} has {patches} patches, which are no grid of {rows} x {columns}; pass another grid")
    if rows == columns:
        return table, ()
    side = side or round(math.sqrt(patches))
    note = f"position embeddings of {rows} x {columns} patches were resized to {side} x {side}"
    return resize_pos_embed(table, side, num_prefix_tokens=cls, source=(rows, columns)), (note,)
