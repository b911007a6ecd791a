"""The served classifier: MLflow stores this one file beside the weights and runs it wherever `mlflow` is installed.

It therefore imports nothing of ours and no torch for the Vision Transformer of arXiv 2010.11929, which runs forward
in NumPy, with timm's weight names; for other networks MLflow stores the package `vit` beside it, which needs torch.
Images go in as files or pixels, labels and scores come out; preprocessing is part of the model. The only module of the
project that must stay a single self-contained file.
"""

import base64
import importlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import ThreadpoolController

# Shapes: B batch, N tokens, D width, H heads, R resolution, P patch side, C classes.
Array = NDArray[np.float32]
BATCH = 64  # images decoded and classified at once; bounds memory whatever the caller sends
COLUMNS = {"image": "int64", "label": "object", "class_index": "int64", "score": "float64"}
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")  # those of vit.data.pictures
MAX_PIXELS = 89_478_485
DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}  # of safetensors
# In the small products of attention BLAS threads wait for each other: on a busy machine (load 5 on 2 cores) a layer
# took 0.05 to 4.0 s with them, 0.10 to 0.21 s without. An idle machine may lose half its speed here.
refusal = MlflowException.invalid_parameter_value  # of a sentence
BLAS = ThreadpoolController().select(user_api="blas")


class BadWeights(ValueError):
    """model.safetensors is damaged, or its tensors do not belong to the network that it describes."""


class Classifier(PythonModel):
    """Images to labels.

    `predict` takes PNG or JPEG bytes, a uint8 array [H, W, 3] or [B, H, W, 3], a list of such, or a DataFrame or
    dict whose column `image` holds them (base64 text, too). It returns a DataFrame with one row per image, or
    `top_k` of them, best first: `image` (position in the input), `label`, `class_index`, `score` (probability).
    Raises MlflowException (a bad request when served) with a sentence that names the image.
    """

    def load_context(self, context: PythonModelContext) -> None:
        path = Path(context.artifacts["weights"])
        description, self.weights = read_safetensors(path)
        self.class_names: list[str] = description["class_names"]
        self.network: dict[str, Any] = description["config"]
        self.evaluation: str = description["evaluation"]
        self.mean = np.asarray(description["image_mean"], np.float32)
        self.std = np.asarray(description["image_std"], np.float32)
        if runs_in_numpy(self.network):
            check_weights(self.weights, self.network, len(self.class_names))
            self.logits: Callable[[Array], Array] = lambda images: forward(self.weights, self.network, images)
        else:
            self.logits = torch_network(path)

    # The hint is what MLflow leaves unchecked: any other, or none, refuses bytes or arrays or warns at every load.
    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        top_k = int((params or {}).get("top_k", 1))
        if top_k < 1:
            raise refusal(f"top_k is {top_k}, but must be at least 1")
        images = items(model_input)
        if not images:
            return pd.DataFrame({name: [] for name in COLUMNS}).astype(COLUMNS)
        parts: list[pd.DataFrame] = []
        for start in range(0, len(images), BATCH):
            batch = np.stack([self.pixels(image, start + i) for i, image in enumerate(images[start : start + BATCH])])
            parts.append(self.rows(softmax(self.logits(batch)), start, top_k))
        return pd.concat(parts, ignore_index=True).astype(COLUMNS)

    def pixels(self, image: Any, position: int) -> Array:
        """One image of any accepted kind, resized and normalised: 3 R R."""
        side, rgb = self.network["resolution"], decode(image, position)
        if self.evaluation == "square":
            shown = np.asarray(rgb.resize((side, side), Image.Resampling.BILINEAR))
        else:
            shown = importlib.import_module("vit.data.views").shown(np.asarray(rgb), side, self.evaluation)
        return ((shown.astype(np.float32) / np.float32(255) - self.mean) / self.std).transpose(2, 0, 1)

    def rows(self, scores: Array, start: int, top_k: int) -> pd.DataFrame:
        """The `top_k` best classes of each image, from scores B C."""
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        return pd.DataFrame(
            {
                "image": np.repeat(np.arange(start, start + len(scores)), best.shape[1]),
                "label": [self.class_names[index] for index in best.ravel()],
                "class_index": best.ravel(),
                "score": np.take_along_axis(scores, best, axis=1).ravel().astype(np.float64),
            }
        )


def items(data: Any) -> list[Any]:
    """The images of a request, one by one and still encoded."""
    if isinstance(data, pd.DataFrame):
        if "image" not in data.columns and len(data.columns) != 1:
            raise refusal(f"the table has no column 'image', only {list(data.columns)}")
        return items(data["image" if "image" in data.columns else data.columns[0]].tolist())
    if isinstance(data, Mapping):
        if "image" not in data:
            raise refusal(f"the dict has no key 'image', only {list(data)}")
        return items(data["image"])
    if isinstance(data, np.ndarray):
        return data.ravel().tolist() if data.dtype.kind in "OSU" else list(data) if data.ndim == 4 else [data]
    return list(data) if isinstance(data, (list, tuple)) and not is_pixels(data) else [data]


def is_pixels(data: Any) -> bool:
    """True for nested lists [H][W][3]: one image as JSON writes it, not a list of images."""
    depth = 0
    while isinstance(data, (list, tuple)) and data:
        data, depth = data[0], depth + 1
    return depth == 3 and isinstance(data, (int, float))


def decode(image: Any, position: int) -> Image.Image:
    """An RGB image from bytes, base64 text or pixels."""
    if isinstance(image, str):
        try:
            image = base64.b64decode("".join(image.split()), validate=True)
        except ValueError as error:
            raise refusal(f"image {position} is text, but not base64 ({error}); send a file's bytes") from error
    if isinstance(image, (bytes, bytearray, memoryview)):
        try:
            return to_rgb(Image.open(io.BytesIO(image), formats=FORMATS))
        except Exception as error:  # on damaged bytes a decoder may raise anything
            raise refusal(f"image {position} cannot be decoded ({error}); send the bytes of a PNG or JPEG") from error
    if isinstance(image, (np.ndarray, list, tuple)):
        return Image.fromarray(check_pixels(image, position))
    raise refusal(f"image {position} is {type(image).__name__}; send PNG or JPEG bytes or a uint8 array [H, W, 3]")


def to_rgb(image: Image.Image) -> Image.Image:
    """As vit.data.pictures: of 16 bits a channel the high byte, no sample without an agreed range, no bomb."""
    if image.mode == "F" or image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} {image.mode}: too large, or floating-point samples")
    image.info.pop("transparency", None)
    if not image.mode.startswith("I"):
        return image.convert("RGB")
    if ((grey := np.asarray(image).astype(np.int64)) >> 16).any():
        raise ValueError("32-bit samples have no agreed range to show")
    return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")


def check_pixels(image: Any, position: int) -> NDArray[np.uint8]:
    try:
        array = np.asarray(image)
    except ValueError as error:  # nested lists of unequal lengths
        raise refusal(f"image {position} is no array of pixels ({error})") from error
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise refusal(f"image {position} has shape {array.shape}, but pixels are [H, W, 3], red, green, blue")
    # JSON knows no uint8, so whole numbers of another type are welcome if they fit.
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise refusal(f"image {position} is {array.dtype}, but pixels are unscaled whole numbers from 0 to 255 (uint8)")
    return np.ascontiguousarray(array, np.uint8)


def runs_in_numpy(network: Mapping[str, Any]) -> bool:
    """True for the network of the paper itself: the authors' GELU, 1-D positions added once, no ResNet before it."""
    plain = {"family": "vit", "stem": None, "position": "learned", "position_at": "stem", "gelu": "tanh"}
    return all(network.get(name) == value for name, value in plain.items()) and network["pooling"] in ("tok", "gap")


def torch_network(path: Path) -> Callable[[Array], Array]:
    """Any other network, by the package `vit` that lies beside this file in the registry."""
    import torch

    network = importlib.import_module("vit.models").load(path).requires_grad_(False)
    return lambda images: network(torch.from_numpy(images)).numpy()


def forward(weights: Mapping[str, Array], network: Mapping[str, Any], images: Array) -> Array:
    """Normalised images B 3 R R to logits B C (eq. 1 to 4 of the paper)."""
    x = patches(images, network["patch_size"])  # B N 3PP
    kernel = weights["patch_embed.proj.weight"]  # D 3 P P
    x = affine(x, kernel.reshape(len(kernel), -1), weights["patch_embed.proj.bias"])
    if network["pooling"] == "tok":
        x = np.concatenate([np.repeat(weights["cls_token"], len(x), axis=0), x], axis=1)
    x = x + weights["pos_embed"]
    eps = np.float32(network["layer_norm_eps"])
    for block in range(network["depth"]):
        name = f"blocks.{block}"
        x = x + attention(weights, f"{name}.attn", norm(weights, f"{name}.norm1", x, eps), network["num_heads"])
        hidden = gelu(dense(weights, f"{name}.mlp.fc1", norm(weights, f"{name}.norm2", x, eps)))
        x = x + dense(weights, f"{name}.mlp.fc2", hidden)
    x = norm(weights, "norm", x, eps)
    x = x[:, 0] if network["pooling"] == "tok" else x.mean(axis=1)
    if network["representation"]:
        x = np.tanh(dense(weights, "pre_logits.fc", x))
    return dense(weights, "head", x)


def patches(images: Array, side: int) -> Array:
    """B 3 R R to B N 3PP, patches in rows from the top left."""
    batch, channels, resolution, _ = images.shape
    grid = resolution // side
    cut = images.reshape(batch, channels, grid, side, grid, side).transpose(0, 2, 4, 1, 3, 5)
    return cut.reshape(batch, grid * grid, -1)


def attention(weights: Mapping[str, Array], name: str, x: Array, num_heads: int) -> Array:
    """Multi-head self-attention (App. A): B N D -> B N D."""
    batch, tokens, width = x.shape
    qkv = dense(weights, f"{name}.qkv", x).reshape(batch, tokens, 3, num_heads, width // num_heads)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # each B H N D/H
    with BLAS.limit(limits=1):
        attended = softmax(q @ k.swapaxes(-1, -2) / np.float32(math.sqrt(width // num_heads))) @ v
    return dense(weights, f"{name}.proj", attended.transpose(0, 2, 1, 3).reshape(batch, tokens, width))


def dense(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    return affine(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def affine(x: Array, weight: Array, bias: Array) -> Array:
    """One matrix product for the whole batch; NumPy would make one for each image."""
    return (x.reshape(-1, x.shape[-1]) @ weight.T + bias).reshape(*x.shape[:-1], -1)


def norm(weights: Mapping[str, Array], name: str, x: Array, eps: np.float32) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Array) -> Array:
    """Tanh-approximated, as the authors' jax.nn.gelu."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)  # x**3 took 35 times x * x * x
    return np.float32(0.5) * x * (1 + np.tanh(inner))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """What a file of ours says about itself, and its tensors as float32; nothing runs. Raises BadWeights."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise BadWeights(f"{path} is no safetensors file or was cut short: its header does not fit {len(data)} bytes")
    try:
        header: dict[str, Any] = json.loads(data[8 : 8 + length])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        body = memoryview(data)[8 + length :]
        description: dict[str, Any] = json.loads(header["__metadata__"]["vitflow"])
        return description, {name: tensor(entry, body) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadWeights(f"{path} is damaged: {error}") from error


def tensor(entry: Mapping[str, Any], body: memoryview) -> Array:
    """One tensor of a header entry; raises ValueError if its offsets do not agree with its shape or the file."""
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"dtype {entry['dtype']} is not one of {', '.join(DTYPES)}")
    dtype = np.dtype(DTYPES[entry["dtype"]])
    if not 0 <= begin <= end <= len(body) or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"offsets {begin} to {end} do not hold shape {shape} within {len(body)} bytes of tensors")
    return np.frombuffer(body[begin:end], dtype).reshape(shape).astype(np.float32)


def check_weights(weights: Mapping[str, Array], network: Mapping[str, Any], num_classes: int) -> None:
    """Raises BadWeights naming the first tensor that is missing or has another shape than the network needs."""
    for name, shape in expected_shapes(network, num_classes):
        found = weights[name].shape if name in weights else "missing"
        if found != shape:
            raise BadWeights(f"{name} is {found}, but the network that the file describes needs {shape}")


def expected_shapes(network: Mapping[str, Any], num_classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, patch, hidden = network["width"], network["patch_size"], network["mlp_dim"]
    has_class_token = network["pooling"] == "tok"
    yield from [("patch_embed.proj.weight", (width, 3, patch, patch)), ("patch_embed.proj.bias", (width,))]
    yield from [("cls_token", (1, 1, width))] * has_class_token
    yield "pos_embed", (1, (network["resolution"] // patch) ** 2 + has_class_token, width)
    dense_layers = [("head", width, num_classes)] + [("pre_logits.fc", width, width)] * network["representation"]
    norms = ["norm", *(f"blocks.{block}.norm{place}" for block in range(network["depth"]) for place in (1, 2))]
    for block in (f"blocks.{index}" for index in range(network["depth"])):
        dense_layers += [(f"{block}.attn.qkv", width, 3 * width), (f"{block}.attn.proj", width, width)]
        dense_layers += [(f"{block}.mlp.fc1", width, hidden), (f"{block}.mlp.fc2", hidden, width)]
    for name, inputs, outputs in dense_layers:
        yield from [(f"{name}.weight", (outputs, inputs)), (f"{name}.bias", (outputs,))]
    yield from ((f"{name}.{part}", (width,)) for name in norms for part in ("weight", "bias"))


set_model(Classifier())
