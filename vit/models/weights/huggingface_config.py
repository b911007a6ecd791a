"""config.json of Hugging Face's ViT and BiT, both ways.

Written from the behaviour of transformers 5.23 (models/vit/configuration_vit.py, models/bit/configuration_bit.py).
"""

from collections.abc import Mapping
from typing import Any, cast

from vit.models.vit import ViTConfig
from vit.models.weights.checkpoint import BadCheckpoint, Checkpoint

RESOLUTION = 224  # pixels, of a BiT whose directory does not say
GELUS = {"gelu": "erf", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh"}
GELU_NAMES = {"erf": "gelu", "tanh": "gelu_pytorch_tanh"}
BIT_EPS = {"group_norm_eps": 1e-5, "standardize_eps": 1e-8, "standardize_eps_on": "variance"}  # fixed in transformers
# Fields with the one value that our networks have; all but the last of each are also the default.
ONLY_VIT = {"num_channels": 3, "pooler_act": "tanh"}
ONLY_BIT = {
    "num_channels": 3,
    "layer_type": "preactivation",
    "hidden_act": "relu",
    "global_padding": None,
    "num_groups": 32,
    "embedding_dynamic_padding": False,
    "output_stride": 32,
    "width_factor": 1,  # hidden_sizes hold it already
}
MEAN = [0.5, 0.5, 0.5]  # and standard deviation: pixels in [0, 1] become [-1, 1]


def vit_fields(values: Mapping[str, Any], *, pooler: bool) -> dict[str, Any]:
    """Fields of a ViTConfig; `pooler`: whether the weights have one. What is left out is as in transformers.

    Raises BadCheckpoint if a field has a value that no network of the paper has.
    """
    _require(values, ONLY_VIT)
    width, activation = _whole(values, "hidden_size", 768), values.get("hidden_act", "gelu")
    if activation not in GELUS:
        raise BadCheckpoint(f"config.json has hidden_act {activation!r}; our networks have {', '.join(GELUS)}")
    if (values.get("pooler_output_size") or width) != width:
        raise BadCheckpoint("config.json has a pooler_output_size other than hidden_size; our networks do not")
    return {
        "family": "vit",
        "resolution": _side(values, "image_size", 224),
        "patch_size": _side(values, "patch_size", 16),
        "stem": None,
        "width": width,
        "depth": _whole(values, "num_hidden_layers", 12),
        "num_heads": _whole(values, "num_attention_heads", 12),
        "mlp_dim": _whole(values, "intermediate_size", 3072),
        "pooling": "tok",
        "representation": pooler,
        "position": "learned",
        "position_at": "stem",
        "gelu": GELUS[activation],
        "layer_norm_eps": values.get("layer_norm_eps", 1e-12),
        "dropout": values.get("hidden_dropout_prob", 0.0),
    }


def bit_fields(values: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a ResNetConfig; its resolution is the image processor's. Raises BadCheckpoint as `vit_fields` does."""
    _require(values, ONLY_BIT)
    depths, widths = values.get("depths", [3, 4, 6, 3]), values.get("hidden_sizes", [256, 512, 1024, 2048])
    layers: list[Any] = list(cast(list[Any], depths)) if isinstance(depths, list) else []
    stem = _whole(values, "embedding_size", 64)
    if stem % 64 or not layers or widths != [4 * stem * 2**stage for stage, _ in enumerate(layers)]:
        raise BadCheckpoint(
            f"config.json has hidden_sizes {widths} above embedding_size {stem}; no BiT of the paper does"
        )
    return {
        "family": "resnet",
        "resolution": told_resolution(preprocessor) or RESOLUTION,
        "layers": layers,
        "width_factor": stem // 64,
        "flavour": "v2",
        **BIT_EPS,
    }


def told_resolution(preprocessor: Mapping[str, Any]) -> int:
    """Pixels that an image processor makes, 0 if it does not say."""
    for name in ("crop_size", "size"):
        size = preprocessor.get(name)
        if isinstance(size, dict) and isinstance(height := cast(dict[str, Any], size).get("height"), int):
            return height
    return 0


def notes(values: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> list[str]:
    """What a reader should know about the numerics and the pixels that the two files describe."""
    found: list[str] = []
    if values["model_type"] == "bit" and not told_resolution(preprocessor):
        found.append(f"the directory does not say its resolution; {RESOLUTION} pixels are assumed")
    if values["model_type"] == "vit" and GELUS[values.get("hidden_act", "gelu")] == "erf":
        found.append("config.json says erf-GELU; the authors' own code computes its tanh form")
    for name in ("image_mean", "image_std"):
        if preprocessor.get(name, MEAN) not in (MEAN, 0.5):
            found.append(f"it was trained with {name} {preprocessor[name]}, while ours is 0.5 throughout")
    return found


def class_names(values: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """Names by class index; () where there are none, or only the LABEL_0 and so on that transformers makes up."""
    labels: dict[str, Any] = values.get("id2label") or {}
    names = tuple(str(labels.get(str(index), "")) for index in range(num_classes))
    if len(labels) != num_classes or names == tuple(f"LABEL_{index}" for index in range(num_classes)):
        return ()
    return names


def description(checkpoint: Checkpoint, architecture: str, dtype: str) -> dict[str, Any]:
    """config.json of the checkpoint's network for the model class `architecture`."""
    config = checkpoint.config
    names = checkpoint.class_names or tuple(f"LABEL_{index}" for index in range(checkpoint.num_classes))
    labels = {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }
    shared = {"architectures": [architecture], "dtype": dtype, "torch_dtype": dtype, **labels}
    if not isinstance(config, ViTConfig):
        widths = [256 * config.width_factor * 2**stage for stage, _ in enumerate(config.layers)]
        sizes = {"depths": list(config.layers), "hidden_sizes": widths, "embedding_size": 64 * config.width_factor}
        return shared | {"model_type": "bit"} | ONLY_BIT | sizes
    return shared | {
        "model_type": "vit",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": GELU_NAMES[config.gelu],
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": config.layer_norm_eps,
        "image_size": config.resolution,
        "patch_size": config.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "encoder_stride": config.patch_size,
        "pooler_act": "tanh",
        "pooler_output_size": config.width,
    }


def preprocessing(resolution: int) -> dict[str, Any]:
    """preprocessor_config.json: our square bilinear resize to `resolution` pixels, then [-1, 1]."""
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": MEAN,
        "image_processor_type": "ViTImageProcessor",
        "image_std": MEAN,
        "resample": 2,  # PIL's number of bilinear
        "rescale_factor": 1 / 255,
        "size": {"height": resolution, "width": resolution},
    }


def _require(values: Mapping[str, Any], only: Mapping[str, Any]) -> None:
    for name, value in only.items():
        if values.get(name, value) != value:
            raise BadCheckpoint(f"config.json has {name} {values[name]!r}; our networks have {value!r}")


def _whole(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name, default)
    if type(value) is not int or value < 1:
        raise BadCheckpoint(f"config.json has {name} {value!r} where a number of 1 or more is due; download it again")
    return value


def _side(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name, default)
    if isinstance(value, list) and len(sides := cast(list[Any], value)) == 2 and sides[0] == sides[1]:
        return _whole({name: sides[0]}, name, default)
    if isinstance(value, list):
        raise BadCheckpoint(f"config.json has {name} {value}; our networks are square")
    return _whole(values, name, default)
