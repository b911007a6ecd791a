"""Hugging Face directories of ViT and BiT, both ways: weights beside a config.json, which huggingface_config.py reads.

Names are those that `save_pretrained` of transformers 5.23 writes, which every release before reads and writes as well;
the module names of release 5 (`layers.i.attention.q_proj`) are read, too. Written from the behaviour of transformers
(models/vit/modeling_vit.py, models/bit/modeling_bit.py, conversion_mapping.py); key table: paper.md 7.1.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vit.models.build import ModelConfig
from vit.models.vit import ViTConfig
from vit.models.weights import directory, huggingface_config
from vit.models.weights.checkpoint import BadCheckpoint, Checkpoint, compare, describe, skeleton, zero_head_notes

PREPROCESSOR = "preprocessor_config.json"
HEADS = {"vit": "classifier.weight", "bit": "classifier.1.weight"}
VIT_NAMES = {  # ours to theirs, modules outside the blocks and within them; q, k and v are three there
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "pre_logits.fc": "pooler.dense",
    "norm1": "layernorm_before",
    "attn.qkv": "attention.attention.{}",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
QKV = ("query", "key", "value")
RENAMED = {  # in release 5
    r"^(vit\.)?layers\.": r"\1encoder.layer.",
    r"\.attention\.q_proj\.": ".attention.attention.query.",
    r"\.attention\.k_proj\.": ".attention.attention.key.",
    r"\.attention\.v_proj\.": ".attention.attention.value.",
    r"\.attention\.o_proj\.": ".attention.output.dense.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
}


def claims(path: Path) -> bool:
    """Whether a path is a directory with the config.json of a transformers model."""
    return (path / directory.CONFIG).is_file() and "model_type" in directory.read_json(path / directory.CONFIG)


def read(path: Path, **settings: Any) -> Checkpoint:
    """A directory of ViT or BiT: one file of weights or shards with their index, safetensors or PyTorch's.

    Settings are fields of our config and win over config.json. Raises BadCheckpoint.
    """
    preprocessor = directory.read_json(path / PREPROCESSOR) if (path / PREPROCESSOR).exists() else {}
    values = directory.read_json(path / directory.CONFIG) | {"preprocessor": preprocessor}
    return parse(directory.read_weights(path), values, **settings)


def parse(tensors: Mapping[str, Tensor], values: Mapping[str, Any], **settings: Any) -> Checkpoint:
    """Tensors and config.json, under "preprocessor" also preprocessor_config.json, as one of our networks.

    What config.json leaves out is as in transformers: erf-GELU, LayerNorm eps 1e-12, 12 layers of 12 heads and so on.
    Raises BadCheckpoint listing unknown, missing and mis-shaped keys, or a field that no network of the paper has.
    """
    kind, preprocessor = str(values.get("model_type")), values.get("preprocessor", {})
    if kind not in HEADS:
        raise BadCheckpoint(
            f"config.json is of model_type {kind!r}; of Hugging Face's models we have {' and '.join(HEADS)}"
        )
    found = {_old_name(name): tensor for name, tensor in tensors.items()} if kind == "vit" else dict(tensors)
    prefix = f"{kind}." if any(name.startswith(f"{kind}.") for name in found) else ""
    head = found.get(HEADS[kind])
    num_classes = 0 if head is None or not head.ndim else head.shape[0]
    with directory.well_formed():
        if kind == "vit":
            fields = huggingface_config.vit_fields(values, pooler=_has_pooler(found, prefix))
        else:
            fields = huggingface_config.bit_fields(values, preprocessor)
        notes = huggingface_config.notes(values, preprocessor)
        class_names = huggingface_config.class_names(values, num_classes)
    config = describe(fields, settings)
    if (config.depth if isinstance(config, ViTConfig) else sum(config.layers)) > len(found):
        raise BadCheckpoint(f"config.json has more layers than there are tensors, {len(found)} in all; one is damaged")
    if isinstance(config, ViTConfig) and values.get("qkv_bias") is False:
        found |= _zero_biases(config, prefix, next(iter(found.values())).dtype)
        notes.append("queries, keys and values have no bias in the file; ours of zeros are the same network")
    state = _ours(found, skeleton(config, num_classes), prefix)
    return Checkpoint(
        config=config,
        num_classes=num_classes,
        state=state,
        origin=f"Hugging Face directory, {kind} {'with' if num_classes else 'without'} head",
        class_names=class_names,
        notes=(*notes, *zero_head_notes(state)),
    )


def emit(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors that transformers loads. Raises BadCheckpoint for a network that it does not have."""
    _refuse(checkpoint.config, checkpoint.num_classes)
    prefix = "" if _architecture(checkpoint).endswith("Model") else f"{_kind(checkpoint.config)}."
    return _theirs(_names(checkpoint.state, prefix), checkpoint.state)


def write(checkpoint: Checkpoint, out: Path) -> list[str]:
    """Writes a new directory for `from_pretrained`, with no key missing and none left over.

    Returns notes on what transformers will compute otherwise than the config says. Raises BadCheckpoint.
    """
    config, tensors = checkpoint.config, emit(checkpoint)
    dtype = directory.dtype_name(tensors)
    documents = {
        directory.CONFIG: huggingface_config.description(checkpoint, _architecture(checkpoint), dtype),
        PREPROCESSOR: huggingface_config.preprocessing(config.resolution),
    }
    directory.write(out, tensors, documents)
    fixed = {} if isinstance(config, ViTConfig) else huggingface_config.BIT_EPS
    return [
        f"transformers computes with {name} {value}, this network with {getattr(config, name)}"
        for name, value in fixed.items()
        if getattr(config, name) != value
    ]


def _refuse(config: ModelConfig, num_classes: int) -> None:
    """Raises BadCheckpoint for what neither ViT nor BiT of transformers can be."""
    if not isinstance(config, ViTConfig):
        wrong = "" if config.flavour == "v2" else f"ResNet of flavour {config.flavour}"
    elif config.stem is not None:
        wrong = "hybrid"
    elif config.pooling != "tok":
        wrong = f"pooling {config.pooling!r}"
    elif (config.position, config.position_at) != ("learned", "stem"):
        wrong = f"position {config.position!r} at {config.position_at!r}"
    else:
        wrong = "representation layer under a head" if config.representation and num_classes else ""
    if wrong:
        raise BadCheckpoint(f"Hugging Face's models have no {wrong}; write the native format")


def _kind(config: ModelConfig) -> str:
    return "vit" if isinstance(config, ViTConfig) else "bit"


def _architecture(checkpoint: Checkpoint) -> str:
    """A ViTModel would make up a missing pooler, so without head and pooler it is a classifier of no classes."""
    config = checkpoint.config
    if isinstance(config, ViTConfig):
        return "ViTModel" if config.representation else "ViTForImageClassification"
    return "BitForImageClassification" if checkpoint.num_classes else "BitModel"


def _has_pooler(found: Mapping[str, Tensor], prefix: str) -> bool:
    pooler = f"{prefix}pooler.dense.weight" in found
    if pooler and HEADS["vit"] in found:
        raise BadCheckpoint("the weights have a pooler and a classifier that does not read it; remove pooler.dense.*")
    return pooler


def _zero_biases(config: ViTConfig, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    layers = [f"{prefix}encoder.layer.{index}.attention.attention" for index in range(config.depth)]
    return {f"{layer}.{part}.bias": torch.zeros(config.width, dtype=dtype) for layer in layers for part in QKV}


def _old_name(name: str) -> str:
    for pattern, replacement in RENAMED.items():
        name = re.sub(pattern, replacement, name)
    return name


def _names(ours: Mapping[str, Tensor], prefix: str) -> dict[str, tuple[str, ...]]:
    """Their names of each parameter of ours; several are parts along its first axis."""
    is_vit = "norm.weight" in ours and "patch_embed.proj.weight" in ours
    return {name: _vit_name(name, prefix) if is_vit else (_bit_name(name, prefix),) for name in ours}


def _vit_name(name: str, prefix: str) -> tuple[str, ...]:
    if name in VIT_NAMES:
        return (prefix + VIT_NAMES[name],)
    module, kind = name.rsplit(".", 1)
    if module == "head":
        return (f"classifier.{kind}",)
    if block := re.fullmatch(r"blocks\.(\d+)\.(.+)", module):
        prefix, module = f"{prefix}encoder.layer.{block[1]}.", block[2]
    theirs = f"{prefix}{VIT_NAMES[module]}.{kind}"
    return tuple(theirs.format(part) for part in QKV) if module == "attn.qkv" else (theirs,)


def _bit_name(name: str, prefix: str) -> str:
    if name.startswith("head.fc."):
        return name.replace("head.fc", "classifier.1")
    if name == "stem.conv.weight":
        return f"{prefix}embedder.convolution.weight"
    return prefix + re.sub(r"^stages\.(\d+)\.blocks\.", r"encoder.stages.\1.layers.", name)


def _ours(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    names = _names(expected, prefix)
    compare(found, _theirs(names, expected))
    joined = {ours: torch.cat([found[name] for name in theirs]) for ours, theirs in names.items() if len(theirs) > 1}
    single = {
        ours: found[theirs[0]].reshape(expected[ours].shape) for ours, theirs in names.items() if len(theirs) == 1
    }
    return joined | single


def _theirs(names: Mapping[str, tuple[str, ...]], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for ours, theirs in names.items():
        tensor = state[ours].flatten(1) if ours == "head.fc.weight" else state[ours]  # their head is no convolution
        tensors |= zip(theirs, tensor.chunk(len(theirs)), strict=True)
    return tensors
