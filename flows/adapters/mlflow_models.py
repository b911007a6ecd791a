"""The trained network as an MLflow model ("models from code"): classifier.py beside its weights, no pickle."""

import base64
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.adapters.mlflow_store import client, tracking_uri

# The store first: it sets the environment that MLflow reads when it is imported.
# isort: split
import mlflow.artifacts
import mlflow.pyfunc
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from PIL import Image

from flows.adapters.classifier import read_safetensors, runs_in_numpy

WEIGHTS = "model.safetensors"
CLASSIFIER = Path(__file__).with_name("classifier.py")
# What classifier.py imports; a consumer of the paper's own network, shown squares, needs neither torch nor OpenCV.
REQUIREMENTS = ["mlflow>=3.17,<4", "numpy>=2", "pandas>=2", "pillow>=11", "threadpoolctl>=3"]
TORCH_REQUIREMENTS = ["einops>=0.8", "safetensors>=0.6", "torch>=2.14"]
OPENCV_REQUIREMENTS = ["opencv-python-headless>=4.11", "simplejpeg>=1.8"]  # what vit.data.views imports
PACKAGE = Path(__file__).parents[2] / "vit"
# Inputs are left open: an MLflow schema can describe bytes or arrays, not "either", and would refuse the other.
SIGNATURE = ModelSignature(
    outputs=Schema(
        [
            ColSpec(DataType.long, "image"),
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.long, "class_index"),
            ColSpec(DataType.double, "score"),
        ]
    ),
    params=ParamSchema([ParamSpec("top_k", DataType.long, 1)]),
)


def log(model: Path, name: str, run_id: str, metadata: Mapping[str, Any]) -> ModelInfo:
    """Store the network in directory `model` with its run; MLflow tries the example before it accepts it.

    `metadata` travels inside the model, so it says where it came from even without a registry.
    """
    _use_store()
    run = client().get_run(run_id)
    # Made here, in the experiment of the run: MLflow would put it into the experiment "Default" and ./mlruns.
    description, _ = read_safetensors(model / WEIGHTS)
    needed = [] if runs_in_numpy(description["config"]) else TORCH_REQUIREMENTS
    needed = needed + ([] if description["evaluation"] == "square" else OPENCV_REQUIREMENTS)
    made = client().create_logged_model(run.info.experiment_id, name, run_id, params=run.data.params)
    return Model.log(
        None,  # the name has a keyword of its own since MLflow 3
        mlflow.pyfunc,
        name=name,
        run_id=run_id,
        model_id=made.model_id,
        python_model=str(CLASSIFIER),
        artifacts={"weights": str(model / WEIGHTS)},
        code_paths=[str(PACKAGE)] if needed else None,
        signature=SIGNATURE,
        input_example=pd.DataFrame({"image": [_example()]}),
        pip_requirements=REQUIREMENTS + needed,
        metadata=dict(metadata),
    )


def load(uri: str) -> PyFuncModel:
    """The classifier behind a model URI; raises ServiceDown or MLflow's own error."""
    client()  # says so if the server is down
    _use_store()
    return mlflow.pyfunc.load_model(uri)


def fetch(uri: str, directory: Path) -> Path:
    """Download a model's weights, and nothing of it that is code; returns the native safetensors file."""
    client()
    _use_store()
    got = mlflow.artifacts.download_artifacts(f"{uri.rstrip('/')}/artifacts/{WEIGHTS}", dst_path=str(directory))
    return Path(got)


def download(uri: str, directory: Path) -> Path:
    """Download a whole model, so that any number of processes can `load_local` it without asking the registry."""
    client()
    _use_store()
    return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(directory)))


def load_local(directory: Path) -> PyFuncModel:
    """The classifier that `download` brought."""
    return mlflow.pyfunc.load_model(str(directory))


def _example() -> str:
    """A grey 8 x 8 PNG as base64 text, the form that a REST request has."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (128, 128, 128)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _use_store() -> None:
    """Point MLflow's global functions, which save and load models, at the store of the client."""
    mlflow.set_tracking_uri(tracking_uri())
    mlflow.set_registry_uri(os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri())
