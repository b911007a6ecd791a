"""`vitflow models` and `vitflow weights` from outside: what they print, write, and say when something is wrong."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flows import registry_view
from flows.cli import app
from flows.stages.config import ConfigError
from tests.checkout import ROOT, run
from vit.models import load

OFFICIAL = ROOT / "tests" / "golden" / "vit_official_npz.npz"
TINY = ("--set", "depth=1", "--set", "width=64", "--set", "num_heads=2", "--set", "mlp_dim=64")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import terminal

    monkeypatch.setattr(terminal.console, "width", 200)
    torch.set_num_threads(1)


def vitflow(*arguments: str) -> str:
    """What the command prints; raises what it raises."""
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def read(*arguments: str) -> dict[str, Any]:
    return json.loads(vitflow(*arguments, "--json"))


@pytest.mark.parametrize(
    ("arguments", "name", "as_json"),
    [
        ((), None, False),
        (("--json",), None, True),
        (("vit-mini",), "vit-mini", False),
        (("vit-mini", "--json"), "vit-mini", True),
        (("--json", "vit-mini"), "vit-mini", True),
        (("list", "describe"), "describe", False),
    ],
)
def test_models_lists_the_registry_as_ever(
    arguments: tuple[str, ...], name: str | None, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str | None, bool]] = []
    monkeypatch.setattr(registry_view, "show", lambda name, *, as_json: asked.append((name, as_json)))
    vitflow("models", *arguments)
    assert asked == [(name, as_json)]


def test_describe_as_json_has_every_number() -> None:
    facts = read(
        "models", "describe", "B/16", *TINY, "--resolution", "32", "--num-classes", "10", "--images", "1000000"
    )
    assert facts["name"] == "ViT-B/16" and facts["config"]["depth"] == 1
    parts, macs = facts["parameters"], facts["forward_macs"]
    for counted in (parts, macs):
        assert counted["total"] == sum(number for part, number in counted.items() if part != "total")
    assert (parts["head"], parts["positions"], macs["head"]) == (650, 5 * 64, 640)
    body = macs["total"] - macs["head"]
    assert facts["exaflops"] == pytest.approx(6 * body * 1_000_000 / 1e18)
    kept = facts["activation_bytes"]
    assert kept["float32"]["per_image"] > kept["bfloat16 autocast"]["per_image"] > 0
    assert kept["bfloat16 autocast"]["per_image"] > kept["bfloat16 autocast, checkpointed"]["per_image"]


def test_describe_prints_a_table() -> None:
    printed = vitflow("models", "describe", "R50+B/16", *TINY, "--set", "layers=[1,1]", "--set", "pooling=gap")
    assert "R50+ViT-B/16 at 224 px, 1,000 classes" in printed
    for part in ("stem", "patch embedding", "positions", "blocks", "final norm", "head", "total", "exaFLOPs"):
        assert part in printed
    assert "class token" not in printed and "for 2,121,000,000 images" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("models", "describe", "ViT-B16"), "nearest are ViT-B/16"),
        (("models", "describe", "B/15"), "are 14 and 16"),
        (("models", "describe", "B/16", "--set", "poling=gap"), "nearest are pooling"),
        (("models", "describe", "B/16", "--set", "pooling"), "must look like field=value"),
        (("weights", "inspect", "missing.npz"), "missing.npz"),
        (("weights", "inspect", str(OFFICIAL), "--set", "num_head=4"), "num_head"),
        (("weights", "inspect", str(Path(__file__))), "test_zoo.py"),
        (("weights", "convert", "missing.npz", "out.safetensors", "--to", "native"), "missing.npz"),
        (("weights", "convert", str(OFFICIAL), "x", "--to", "native", "--resolution", "33"), "33"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        vitflow(*arguments)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_inspect_says_what_a_file_is() -> None:
    facts = read("weights", "inspect", str(OFFICIAL))
    assert "official" in facts["origin"] and facts["num_classes"] == 7
    assert (facts["config"]["width"], facts["config"]["depth"], facts["config"]["gelu"]) == (32, 3, "tanh")
    with np.load(OFFICIAL) as arrays:
        assert facts["parameters"] == sum(arrays[name].size for name in arrays)
    printed = vitflow("weights", "inspect", str(OFFICIAL))
    assert facts["origin"] in printed and "num_heads" in printed


def test_convert_there_and_back_is_bit_exact(tmp_path: Path) -> None:
    native, back = tmp_path / "model.safetensors", tmp_path / "back.npz"
    assert f"wrote {native}" in vitflow("weights", "convert", str(OFFICIAL), str(native), "--to", "native")
    vitflow("weights", "convert", str(native), str(back), "--to", "npz")
    with np.load(OFFICIAL) as before, np.load(back) as after:
        assert sorted(before) == sorted(after)
        assert all(np.array_equal(before[name], after[name]) for name in before)


def test_convert_at_another_resolution(tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    vitflow("weights", "convert", str(OFFICIAL), str(out), "--to", "native", "--resolution", "48")
    model = load(out)
    assert model.config.resolution == 48
    expected = load(OFFICIAL, resolution=48).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_exit_code_of_a_bad_name() -> None:
    done = run(ROOT, sys.executable, "-m", "flows.cli", "models", "describe", "ViT-B16")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: no network is called 'ViT-B16'") and "Traceback" not in done.stderr
