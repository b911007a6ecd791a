"""A registered version as files: weights in a chosen format, the model card, lineage; nothing of MLflow in it."""

import json
import tempfile
from pathlib import Path
from typing import cast

from flows import registry_facts
from flows.adapters import mlflow_registry
from flows.adapters.mlflow_registry import Version

NAMES = {
    "native": "model.safetensors",
    "timm": "model.safetensors",
    "npz": "model.npz",
    "onnx": "model.onnx",
    "hf": "model",  # a directory
}
PIXELS = "RGB, 0 to 255, divided by 127.5, less 1; shape [N, 3, R, R]"


def export(version: Version, out: Path, to: str) -> list[str]:
    """Write `out`, whole or not at all; returns what a person should know of the format, line by line.

    Raises ValueError if `out` exists, or if the format cannot hold this network.
    """
    from vit.models import weights
    from vit.models.weights import native

    if out.exists():
        raise ValueError(f"{out} exists; export writes a new directory")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        work, source = Path(scratch) / "whole", mlflow_registry.fetch(version.uri, Path(scratch))
        work.mkdir()
        described = native.read(source)
        target = work / NAMES[to]
        notes = onnx(source, target) if to == "onnx" else weights.convert(source, cast(weights.Format, to), target)
        (work / "README.md").write_text(version.card, encoding="utf-8")
        (work / "lineage.json").write_text(json.dumps(registry_facts.facts(version), indent=2) + "\n")
        labels = {"class_names": list(described.class_names), "evaluation": described.evaluation}
        (work / "preprocessing.json").write_text(json.dumps(labels | {"pixels": PIXELS}, indent=2) + "\n")
        work.rename(out)
    return [f"wrote {out}", *(f"note: {note}" for note in notes)]


def onnx(source: Path, out: Path) -> list[str]:
    """Trace the network with any batch size. Raises ValueError if torch's exporter lacks its libraries."""
    import torch

    from vit.models import load

    network = load(source).eval()
    resolution = int(network.config.resolution)
    images = torch.zeros(2, 3, resolution, resolution)
    try:
        torch.onnx.export(
            network,
            (images,),
            str(out),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    except ModuleNotFoundError as error:
        raise ValueError(f"ONNX needs the package {error.name}: pip install onnxscript") from error
    return [f"input images [N, 3, {resolution}, {resolution}] as preprocessing.json says, output logits [N, classes]"]
