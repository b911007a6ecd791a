"""The registered model sees images exactly as the scores were measured on them: squashed, or their centre cut out."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos

from flows.adapters.classifier import Classifier
from tests.adapters.test_mlflow_registry import register
from tests.networks import tiny_vit
from vit.data.loader import evaluation_batches
from vit.data.shards import Example, Shards, write
from vit.data.views import View, evaluation_view
from vit.models.vit import ViT
from vit.models.weights import native

pytestmark = pytest.mark.usefixtures("store")
CLASSES = ["cat", "dog", "owl"]


def encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pictures() -> dict[str, bytes]:
    """Photos of odd sizes, upright and lying, larger and smaller than any view, and files that need a rule."""
    cat, face = Image.fromarray(photos.chelsea()), Image.fromarray(photos.astronaut())
    deep = Image.fromarray((np.asarray(face.convert("L")).astype(np.uint16) << 8) + 77)
    cat.putalpha(128)
    return {
        "jpg": encoded(cat.convert("RGB"), "JPEG", quality=90),
        "upright.jpg": encoded(face.crop((3, 0, 200, 511)), "JPEG"),
        "small.png": encoded(face.resize((19, 13)), "PNG"),
        "grey16.png": encoded(deep, "PNG"),
        "alpha.png": encoded(cat, "PNG"),
        "palette.png": encoded(face.quantize(30), "PNG"),
        "cmyk.jpg": encoded(face.convert("CMYK"), "JPEG"),
        "webp": encoded(face, "WEBP", lossless=1),
    }


def save(directory: Path, view: View) -> ViT:
    torch.manual_seed(0)
    model = ViT(tiny_vit(resolution=32, patch_size=8, width=12, depth=1, num_heads=3, mlp_dim=20), len(CLASSES)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    native.save(directory / "model.safetensors", model, class_names=CLASSES, evaluation=view)
    return model


@pytest.mark.parametrize("view", get_args(View))
def test_the_served_model_sees_what_was_scored(view: View, tmp_path: Path) -> None:
    save(tmp_path, view)
    served = Classifier()
    context = SimpleNamespace(artifacts={"weights": str(tmp_path / "model.safetensors")})
    served.load_context(context)  # pyright: ignore[reportArgumentType]
    for name, data in pictures().items():
        scored = evaluation_view(data, 32, view).astype(np.float32) / 127.5 - 1
        np.testing.assert_allclose(served.pixels(data, 0), scored.transpose(2, 0, 1), atol=1e-6, err_msg=name)


def test_a_centre_is_no_square() -> None:
    data = pictures()["jpg"]
    assert np.abs(evaluation_view(data, 32, "centre").astype(int) - evaluation_view(data, 32, "square")).mean() > 10


def test_what_is_inner_is_the_middle_of_the_square() -> None:
    """As big_vision's few-shot evaluator has it: `resize(256)|central_crop(224)`."""
    data = pictures()["jpg"]
    whole = evaluation_view(data, 256, "square")
    assert np.array_equal(evaluation_view(data, 224, "inner"), whole[16:240, 16:240])


@pytest.mark.parametrize("view", get_args(View))
def test_a_registered_model_gives_the_scores_that_were_measured(view: View, tmp_path: Path) -> None:
    """In a process that sees nothing of ours; OpenCV is asked for only where it is needed."""
    model = save(tmp_path, view)
    version = register(tmp_path, f"view-{view}", "f1", 0.5)
    files = pictures()
    examples = [
        Example(key=str(row), split="val", labels=(0,), image=data, ext=name.rpartition(".")[2], width=1, height=1)
        for row, (name, data) in enumerate(files.items())
    ]
    write(tmp_path / "shards", examples, name="toy", class_names=CLASSES)
    shards = Shards(tmp_path / "shards")
    with torch.no_grad():
        batches = evaluation_batches(shards, range(len(shards)), resolution=32, view=view)
        measured = torch.cat([model(images).softmax(dim=1) for images, _ in batches])
    for row, data in enumerate(files.values()):
        (tmp_path / f"{row}.bin").write_bytes(data)
    script = tmp_path / "ask.py"
    script.write_text(
        "import mlflow, pathlib, sys\n"
        f"images = [pathlib.Path(f'{{row}}.bin').read_bytes() for row in range({len(files)})]\n"
        f"rows = mlflow.pyfunc.load_model({version.uri!r}).predict(images, params={{'top_k': 3}})\n"
        f"assert 'torch' not in sys.modules and ('cv2' in sys.modules) == ({view!r} != 'square')\n"
        "print(rows.sort_values(['image', 'class_index'])['score'].tolist())\n"
    )
    environment = os.environ | {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), measured.flatten().numpy(), atol=1e-5)
