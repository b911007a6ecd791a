"""The house rules that a test keeps: floors, sizes, and what DVC watches."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.stages.config import INPUTS, STAGES, names
from flows.stages.execute import FUNCTIONS
from tests.closure import ROOT, closures

DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
CLOSURES = closures(STAGES)
SOURCES = sorted([*ROOT.glob("flows/**/*.py"), *ROOT.glob("vit/**/*.py")])
MAX_FILE, MAX_FUNCTION, MAX_LOOP = 300, 40, 60  # lines; the loop is vit/training/loop.py's train


def test_dvc_has_the_stages_of_the_pipeline() -> None:
    assert tuple(DVC) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_watches_exactly_the_code_that_a_stage_imports(stage: str) -> None:
    code = [dep for dep in DVC[stage]["do"]["deps"] if not dep.startswith("runs/")]
    assert code == CLOSURES[stage], f"deps of {stage} in dvc.yaml must be: {CLOSURES[stage]} (make deps)"


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_the_table_and_the_function_agree_on_inputs(stage: str) -> None:
    inputs = [dep for dep in DVC[stage]["do"]["deps"] if dep.startswith("runs/")]
    assert inputs == [f"runs/${{key}}/{source}" for source in INPUTS[stage].values()]
    parameters = list(inspect.signature(FUNCTIONS[stage]).parameters)
    assert parameters == ["config", *INPUTS[stage], "out"]
    assert DVC[stage]["do"]["outs"] == [f"runs/${{key}}/{stage}"]
    assert DVC[stage]["do"]["params"] == [{"pipelines.yaml": [f"pipelines.${{key}}.{stage}"]}]


def test_pretraining_does_not_depend_on_evaluation() -> None:
    assert "vit/evaluation/vtab.py" in CLOSURES["evaluate"]
    assert not any(path.startswith("vit/evaluation") for path in CLOSURES["pretrain"] + CLOSURES["finetune"])
    assert not any("mlflow" in path for path in CLOSURES["pretrain"])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            limit = MAX_LOOP if node.name == "train" else MAX_FUNCTION
            assert lines <= limit, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree)


def test_every_pipeline_loads() -> None:
    from flows.stages.config import load

    assert "mini" in names()
    for name in names():
        load(name)


def test_pins_are_compiled_from_pyproject_and_name_no_host() -> None:
    for file in ("requirements.txt", "requirements-dev.txt"):
        lines = (ROOT / file).read_text().splitlines()
        assert all(re.fullmatch(r"[\w.\[\]-]+==[\w.+!]+( ;.*)?|#.*", line) for line in lines), file
    runtime = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    assert runtime <= set((ROOT / "requirements-dev.txt").read_text().splitlines())


def test_command_line_starts_without_heavy_imports() -> None:
    """`vitflow --help` must not wait for torch, mlflow or prefect."""
    code = "import sys, flows.cli; print([m for m in ('torch', 'mlflow', 'prefect', 'ray', 'dvc') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
