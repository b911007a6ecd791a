"""What Prefect offers for each pipeline: the form's choices and help texts, and its description. No server."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.checkout import ROOT, run

# In a process of its own: importing the flow sets variables and loggers for the whole process.
SCRIPT = """
import json
from flows.deploy import deployment, names
offered = {}
for name in names():
    made = deployment(name)
    offered[name] = {
        "schema": made._parameter_openapi_schema.model_dump(),
        "parameters": made.parameters,
        "description": made.description,
        "concurrency_limit": made.concurrency_limit,
        "entrypoint": made.entrypoint,
    }
print(json.dumps(offered))
"""
PIPELINES = yaml.safe_load((ROOT / "pipelines.yaml").read_text())["pipelines"]


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    home = tmp_path_factory.mktemp("prefect")
    done = run(ROOT, sys.executable, "-c", SCRIPT, PREFECT_HOME=str(home))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_pipeline_is_offered(offered: dict[str, dict]) -> None:
    assert list(offered) == list(PIPELINES)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_form_has_choices_and_help_texts(offered: dict[str, dict], name: str) -> None:
    fields = offered[name]["schema"]["properties"]
    assert list(fields) == ["pipeline", "overrides"]
    assert fields["pipeline"]["enum"] == list(PIPELINES)
    assert "pipelines.yaml" in fields["pipeline"]["description"]
    assert (fields["overrides"]["type"], fields["overrides"]["items"]) == ("array", {"type": "string"})
    assert "finetune.train.learning_rate=0.02" in fields["overrides"]["description"]


@pytest.mark.parametrize("name", PIPELINES)
def test_the_form_is_filled_in_and_described(offered: dict[str, dict], name: str) -> None:
    assert offered[name]["parameters"] == {"pipeline": name, "overrides": []}
    assert offered[name]["description"] == PIPELINES[name]["deploy"]["description"]
    assert offered[name]["concurrency_limit"] == 1
    file, _, function = offered[name]["entrypoint"].partition(":")
    assert (ROOT / file).resolve() == (ROOT / Path("flows/pipeline.py")).resolve()
    assert function == "vit_pipeline"
