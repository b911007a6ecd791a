"""The registry: one version per fingerprint, a gate with a documented answer to every case, a model anyone can load."""

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from flows.adapters import mlflow_gate as gate
from flows.adapters import mlflow_registry as registry
from flows.adapters.mlflow_gate import Gate, decide
from flows.adapters.mlflow_registry import Submission, UnknownModel, Version
from flows.adapters.mlflow_runs import stage_run
from flows.adapters.mlflow_store import client
from tests.networks import tiny_vit
from vit.models.build import build
from vit.models.variants import configure
from vit.models.vit import ViT
from vit.models.weights import native

pytestmark = pytest.mark.usefixtures("store")
METRIC = "vtab/mean_of_tasks"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    network = ViT(tiny_vit(resolution=16, patch_size=8, pooling="gap"), 3)
    torch.nn.init.normal_(network.head.weight)
    native.save(out / "model.safetensors", network, class_names=["cat", "dog", "owl"])
    return out


def submission(name: str, fingerprint: str, score: float) -> Submission:
    return Submission(
        name=name,
        fingerprint=fingerprint,
        metrics={METRIC: score, "finetune/val/top1": 0.75},
        tags={"git.commit": "c0ffee", "dvc.prepare": "d41d8cd9", "vitflow.overrides": ""},
        card="A model. Load {uri}.",
        configs={"finetune": {"resolution": 16}},
    )


def register(model: Path, name: str, fingerprint: str, score: float) -> Version:
    tags = {"vitflow.stage": "register", "vitflow.fingerprint": fingerprint}
    with stage_run(name, "register", tags) as run:
        return registry.register(model, submission(name, fingerprint, score), run_id=run.run_id)


def aliases(name: str) -> dict[str, str]:
    return {alias: one.version for one in registry.versions(name) for alias in one.aliases}


def version(number: str, score: float, **tags: str) -> Version:
    return Version(
        name="m",
        version=number,
        aliases=(),
        scores={METRIC: score},
        tags=tags,
        created="",
        run_id="",
        uri=f"models:/m/{number}",
    )


@pytest.fixture(scope="module")
def registered(model: Path, store_root: Path) -> Version:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITFLOW_ROOT", str(store_root))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store_root / 'mlflow.db'}")
        made = register(model, "whole", "f1", 0.5)
        gate.promote("whole", made.version, Gate(metric=METRIC, min_improvement=0.0))
    return made


def test_version_says_where_it_came_from(registered: Version) -> None:
    (found,) = registry.versions("whole")
    assert found.uri == "models:/whole/1"
    assert found.aliases == ("champion",)
    assert found.scores == {METRIC: 0.5, "finetune/val/top1": 0.75}
    assert found.tags["git.commit"] == "c0ffee"
    assert found.tags["dvc.prepare"] == "d41d8cd9"
    run = client().get_run(found.run_id)
    assert run.outputs is not None
    (logged,) = [output.model_id for output in run.outputs.model_outputs]
    assert client().get_model_version("whole", "1").source == f"models:/{logged}"
    assert {metric.key: metric.value for metric in client().get_logged_model(logged).metrics or ()} == dict(
        found.scores
    )
    assert run.data.metrics[METRIC] == 0.5
    assert run.data.tags["git.commit"] == "c0ffee"
    assert client().get_model_version("whole", "1").description == "A model. Load models:/whole/1."
    assert registry.names().count("whole") == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.version = "2"  # pyright: ignore[reportAttributeAccessIssue]


def test_model_takes_bytes_arrays_lists_and_tables(registered: Version) -> None:
    loaded = registry.load("models:/whole@champion")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    files: list[bytes] = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        files.append(buffer.getvalue())
    expected = loaded.predict(pixels)
    assert list(expected.columns) == ["image", "label", "class_index", "score"]
    for images in (files, list(pixels), {"image": files}, pd.DataFrame({"image": files})):
        pd.testing.assert_frame_equal(loaded.predict(images), expected)
    pd.testing.assert_frame_equal(loaded.predict(files[0]), expected[:1])
    assert len(loaded.predict(pixels, params={"top_k": 3})) == 6


def test_model_carries_signature_lineage_and_no_pickle(registered: Version, store: Path) -> None:
    loaded = registry.load(registered.uri)
    signature, metadata = loaded.metadata.signature, loaded.metadata.metadata
    assert signature is not None
    assert signature.outputs is not None
    assert metadata is not None
    assert signature.outputs.input_names() == ["image", "label", "class_index", "score"]
    assert metadata["lineage"]["git.commit"] == "c0ffee"
    assert metadata["configs"] == {"finetune": {"resolution": 16}}
    names = {path.name for path in (store / "mlartifacts" / "whole").rglob("*") if path.is_file()}
    assert {"classifier.py", "model.safetensors", "input_example.json"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".pth"))]
    requirements = next((store / "mlartifacts" / "whole").rglob("requirements.txt")).read_text()
    assert "torch" not in requirements


def test_other_networks_travel_with_their_code(tmp_path: Path) -> None:
    """Registered, loaded and asked in a process that does not see our packages."""
    torch.manual_seed(0)
    network = build(configure("R50x1", 32, layers=(1, 1), width_factor=1), 2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    native.save(tmp_path / "model.safetensors", network, class_names=["cat", "dog"])
    version = register(tmp_path, "resnet", "f1", 0.5)
    script = tmp_path / "ask.py"
    script.write_text(
        "import sys, numpy as np, mlflow\n"
        "assert not any(name == 'vit' for name in sys.modules)\n"
        "images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)\n"
        f"rows = mlflow.pyfunc.load_model({version.uri!r}).predict(images, params={{'top_k': 2}})\n"
        "import vit; assert 'artifacts' in vit.__path__[0], vit.__path__\n"
        "print(rows.sort_values(['image', 'class_index'])['score'].tolist())\n"
    )
    environment = os.environ | {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        scores = network.eval()(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).softmax(dim=1)
    np.testing.assert_allclose(json.loads(done.stdout), scores.flatten().numpy(), atol=1e-5)


def test_same_fingerprint_gives_the_same_version(registered: Version, model: Path) -> None:
    again = register(model, "whole", "f1", 0.5)
    assert again.version == registered.version
    assert len(registry.versions("whole")) == 1


def test_promotion_moves_the_aliases(model: Path) -> None:
    for fingerprint, score, expected in [
        ("a", 0.5, {"champion": "1"}),
        ("b", 0.4, {"champion": "1", "challenger": "2"}),
        ("c", 0.6, {"champion": "3", "previous": "1", "challenger": "2"}),
    ]:
        made = register(model, "gate", fingerprint, score)
        decision = gate.promote("gate", made.version, Gate(metric=METRIC, min_improvement=0.05))
        assert aliases("gate") == expected
        assert registry.versions("gate")[0].tags["vitflow.decision"] == decision.sentence
    again = gate.promote("gate", "3", Gate(metric=METRIC, min_improvement=0.05))
    assert (again.alias, again.sentence) == ("champion", decision.sentence)
    assert again.champion is not None
    assert again.champion.version == "1"
    # A challenger that wins later is no challenger any more.
    client().set_registered_model_alias("gate", "champion", "2")
    client().set_registered_model_alias("gate", "challenger", "3")
    assert gate.promote("gate", "3", Gate(metric=METRIC, min_improvement=0.05)).alias == "champion"
    assert aliases("gate") == {"champion": "3", "previous": "2"}


@pytest.mark.parametrize(
    ("candidate", "champion", "margin", "wins", "reason"),
    [
        (0.2, None, 0.1, True, "no champion"),
        (math.nan, None, 0.0, False, "no number"),
        (math.nan, 0.5, 0.0, False, "no number"),
        (0.5, 0.5, 0.0, False, "does not beat"),
        (0.51, 0.5, 0.0, True, "beats"),
        (0.86, 0.85, 0.01, True, "beats"),  # exactly at the margin
        (0.3, 0.2, 0.1, True, "beats"),
        (0.3 - 1e-6, 0.2, 0.1, False, "by the 0.1"),
        (0.9, math.nan, 0.0, False, "has no vtab/mean_of_tasks"),
    ],
)
def test_gate(candidate: float, champion: float | None, margin: float, wins: bool, reason: str) -> None:
    rival = None if champion is None else version("1", champion)
    decision = decide(version("2", candidate), rival, Gate(metric=METRIC, min_improvement=margin))
    assert (decision.alias == "champion") == wins
    assert reason in decision.sentence


def test_champion_scored_on_other_data_stays() -> None:
    before = version("1", 0.1, **{"vitflow.evaluated_on": "x"})
    after = version("2", 0.9, **{"vitflow.evaluated_on": "y"})
    decision = decide(after, before, Gate(metric=METRIC, min_improvement=0.0))
    assert decision.alias == "challenger"
    assert "other data" in decision.sentence


def test_a_group_that_falls_keeps_the_champion() -> None:
    def scored(number: str, mean: float, natural: float) -> Version:
        return dataclasses.replace(version(number, mean), scores={METRIC: mean, "vtab/natural": natural})

    before, after = scored("1", 0.5, 0.8), scored("2", 0.6, 0.7)
    guarded = ("vtab/natural", "vtab/structured")  # the second is in neither version
    strict = Gate(metric=METRIC, min_improvement=0.0, guarded=guarded, max_drop=0.05)
    refused = decide(after, before, strict)
    assert refused.alias == "challenger"
    assert "vtab/natural falls from 0.8000 to 0.7000" in refused.sentence
    for loose in (dataclasses.replace(strict, max_drop=0.1), dataclasses.replace(strict, max_drop=None)):
        assert decide(after, before, loose).alias == "champion"
    # A guarded metric that is missing now was not shown to hold.
    assert decide(version("2", 0.6), before, strict).alias == "challenger"


def test_people_move_the_alias_and_say_why(model: Path) -> None:
    for fingerprint, score in [("a", 0.5), ("b", 0.4), ("c", 0.6)]:
        made = register(model, "people", fingerprint, score)
        gate.promote("people", made.version, Gate(metric=METRIC, min_improvement=0.0))
    assert aliases("people") == {"champion": "3", "previous": "1", "challenger": "2"}
    gate.roll_back("people", who="Ada", why="wrong labels in May")
    assert aliases("people") == {"champion": "1", "previous": "3", "challenger": "2"}
    tags = registry.version("people").tags
    assert tags["vitflow.moved_by"] == "Ada"
    assert "rolled back: wrong labels in May" in tags["vitflow.decision"]
    gate.appoint("people", "2", who="Bo", why="smaller")
    assert aliases("people") == {"champion": "2", "previous": "1"}
    assert "by Bo" in registry.version("models:/people@champion").tags["vitflow.decision"]
    gate.appoint("people", "2", who="Cy", why="again")  # the champion already: the rollback's target stays
    assert aliases("people") == {"champion": "2", "previous": "1"}
    register(model, "lonely", "a", 0.5)
    with pytest.raises(UnknownModel, match="no previous champion"):
        gate.roll_back("lonely", who="Ada", why="no reason")


def test_a_version_is_found_by_alias_number_or_name(registered: Version, tmp_path: Path) -> None:
    for uri in ("whole", "whole@champion", "models:/whole@champion", "models:/whole/1", "whole/1"):
        assert registry.version(uri).version == "1"
    for uri, said in (("whole@winner", "no alias winner"), ("whole/7", "no version 7")):
        with pytest.raises(UnknownModel, match=rf"{said}; there are models:/whole/1 \(champion\)"):
            registry.version(uri)
    file = registry.fetch("models:/whole/1", tmp_path)
    assert native.read(file).class_names == ("cat", "dog", "owl")


def test_two_registrations_at_once_make_one_version(model: Path) -> None:
    tags = {"vitflow.stage": "register", "vitflow.fingerprint": "race"}
    found: list[Version] = []
    with stage_run("race", "register", tags) as run:
        threads = [
            threading.Thread(
                target=lambda: found.append(
                    registry.register(model, submission("race", "same", 0.5), run_id=run.run_id)
                )
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [one.version for one in found] == ["1", "1", "1"]
    assert len(registry.versions("race")) == 1


def test_wrong_names_are_sentences(registered: Version) -> None:
    with pytest.raises(UnknownModel, match=r"no model 'whale' .* whole"):
        registry.versions("whale")
    with pytest.raises(UnknownModel, match=r"models:/whole/1 \(champion\)"):
        registry.load("models:/whole@winner")
    with pytest.raises(UnknownModel, match="no model URI"):
        registry.load("whole")
    with pytest.raises(UnknownModel, match="has no version 99"):
        gate.promote("whole", "99", Gate(metric=METRIC, min_improvement=0.0))
    for name in ("../etc", "a/b", "a..b", "x' OR 1=1"):
        with pytest.raises(ValueError, match=r"model name|model_name"):
            registry.versions(name)
        with pytest.raises(ValueError, match=r"model name|'a'"):
            registry.load(f"models:/{name}@champion")
