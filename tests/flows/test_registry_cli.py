"""`vitflow models show | diff | promote | rollback | export`: what a person learns of a version, and may do with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flows import reproduce
from flows.adapters import mlflow_gate, mlflow_registry
from flows.adapters.mlflow_gate import Gate
from flows.adapters.mlflow_registry import Submission, UnknownModel
from flows.adapters.mlflow_runs import stage_run
from flows.cli import app
from tests.networks import tiny_vit
from vit.models import load
from vit.models.vit import ViT
from vit.models.weights import native

METRIC = "vtab/mean_of_tasks"
NAME = "vit-shown"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose registry has two versions, the second better and trained at another rate."""
    root = tmp_path_factory.mktemp("checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITFLOW_ROOT", str(root))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        for number, rate, score in ((1, 0.1, 0.5), (2, 0.2, 0.6)):
            _register(root / str(number), number, rate, score)
    return root


def _register(directory: Path, number: int, rate: float, score: float) -> None:
    torch.manual_seed(number)
    directory.mkdir()
    network = ViT(tiny_vit(resolution=16, patch_size=8), 3)
    torch.nn.init.normal_(network.head.weight)  # pyright: ignore[reportArgumentType]
    native.save(directory / "model.safetensors", network, class_names=["cat", "dog", "owl"])
    config = {"finetune": {"resolution": 16, "train": {"learning_rate": rate, "seed": 7}}}
    tags = {
        "git.commit": "c0ffee" * 6 + "cafe",
        "git.dirty": "true",
        "vitflow.pipeline": "smoke",
        "vitflow.overrides": f"finetune.train.learning_rate={rate}",
        "config.resolved": json.dumps(config),
        "dvc.prepare": f"d41d{number}",
        "software.torch": "2.14.1",
        "hardware.cpu": "some CPU",
    }
    submission = Submission(
        name=NAME,
        fingerprint=f"f{number}",
        metrics={METRIC: score, "dedup/removed": 12.0, "pretrain/world_size": 2.0},
        tags=tags,
        card="# A model\nLoad {uri}.",
        configs=config,
    )
    with stage_run(NAME, "register", {"vitflow.stage": "register", "vitflow.fingerprint": f"f{number}"}) as run:
        made = mlflow_registry.register(directory, submission, run_id=run.run_id)
    mlflow_gate.promote(NAME, made.version, Gate(metric=METRIC, min_improvement=0.0))


@pytest.fixture(autouse=True)
def store(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import terminal

    monkeypatch.setenv("VITFLOW_ROOT", str(root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    monkeypatch.setattr(terminal.console, "width", 200)
    torch.set_num_threads(1)


def vitflow(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def read(*arguments: str) -> dict[str, Any]:
    return json.loads(vitflow(*arguments, "--json"))


def test_show_leads_back_to_commit_config_data_and_cost() -> None:
    found = read("show", f"{NAME}/2")
    assert found["version"]["aliases"] == ["champion"]
    assert "beats" in found["version"]["decision"]
    assert found["scores"] == {METRIC: 0.6}
    assert found["data"] == {"dvc.prepare": "d41d2", "dedup/removed": 12.0}
    assert found["source"]["git.commit"].startswith("c0ffee")
    assert found["config"]["finetune.train.learning_rate"] == 0.2
    assert found["seeds"] == {"finetune.train.seed": 7}
    assert found["software"] == {"software.torch": "2.14.1"}
    assert found["cost"] == {"pretrain/world_size": 2.0}
    text = vitflow("show", NAME)
    for said in ("models:/vit-shown/2", "finetune.train.learning_rate", "some CPU", "d41d2"):
        assert said in text


def test_diff_says_only_what_differs() -> None:
    found = read("diff", f"{NAME}@previous", NAME)
    assert found["scores"] == {METRIC: [0.5, 0.6]}
    assert found["data"] == {"dvc.prepare": ["d41d1", "d41d2"]}
    assert found["config"] == {"finetune.train.learning_rate": [0.1, 0.2]}
    assert "software" not in found
    assert "hardware" not in found
    text = vitflow("diff", f"{NAME}/1", f"{NAME}/2")
    assert "+0.1" in text
    assert "seed" not in text
    assert "are the same" in vitflow("diff", NAME, NAME)


def test_rollback_and_promotion_by_hand_are_remembered() -> None:
    assert "Ada" in vitflow("rollback", NAME, "--by", "Ada", "--why", "too slow")
    assert read("show", NAME)["version"]["uri"].endswith("/1")
    assert read("show", NAME)["version"]["moved by"] == "Ada"
    vitflow("promote", f"{NAME}/2", "--why", "fast enough")
    assert read("show", NAME)["version"]["uri"].endswith("/2")
    with pytest.raises(UnknownModel, match="no version 9"):
        vitflow("promote", f"{NAME}/9", "--why", "typing error")


@pytest.mark.parametrize("to", ["native", "timm", "hf", "npz"])
def test_exported_weights_answer_the_same(to: str, root: Path, tmp_path: Path) -> None:
    vitflow("export", NAME, str(tmp_path / "out"), "--to", to)
    (file,) = (tmp_path / "out").glob("model*")
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        expected = load(root / "2" / "model.safetensors")(images)
        torch.testing.assert_close(load(file)(images), expected, atol=1e-6, rtol=0)
    assert (tmp_path / "out" / "README.md").read_text() == f"# A model\nLoad models:/{NAME}/2."
    assert json.loads((tmp_path / "out" / "preprocessing.json").read_text())["class_names"] == ["cat", "dog", "owl"]
    assert json.loads((tmp_path / "out" / "lineage.json").read_text())["seeds"] == {"finetune.train.seed": 7}
    with pytest.raises(ValueError, match="exists"):
        vitflow("export", NAME, str(tmp_path / "out"))


def test_onnx_answers_the_same_for_any_batch(root: Path, tmp_path: Path) -> None:
    import onnxruntime  # pyright: ignore[reportMissingTypeStubs]

    vitflow("export", NAME, str(tmp_path / "out"), "--to", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for batch in (1, 5):
        images = np.random.default_rng(batch).uniform(-1, 1, (batch, 3, 16, 16)).astype(np.float32)
        logits = np.asarray(session.run(["logits"], {"images": images})[0])
        with torch.no_grad():
            expected = load(root / "2" / "model.safetensors")(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_what_cannot_be_made_again_is_a_sentence(root: Path, tmp_path: Path) -> None:
    version = mlflow_registry.version(NAME)
    with pytest.raises(reproduce.CannotReproduce, match=r"not committed .* c0ffeec0ff"):
        reproduce.reproduce(version, root, tmp_path / "again")
    with pytest.raises(reproduce.CannotReproduce, match="cannot be checked out"):
        reproduce.clone(root, "c0ffee", tmp_path / "clone")
    one, other = root / "1" / "model.safetensors", root / "2" / "model.safetensors"
    assert reproduce.largest_difference(one, one) == 0
    expected = max(
        float((tensor - native.read(other).state[name]).abs().max()) for name, tensor in native.read(one).state.items()
    )
    assert reproduce.largest_difference(one, other) == expected > 0.01
