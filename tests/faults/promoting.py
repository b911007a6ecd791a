"""A process that registers and promotes as it is told, a JSON line each: `python -m tests.faults.promoting`."""

import json
import sys
from typing import Any

from flows.environment import apply_defaults

apply_defaults()

import mlflow  # noqa: E402  (environment first)

from flows.adapters import mlflow_gate, mlflow_registry  # noqa: E402
from flows.adapters.mlflow_gate import Gate  # noqa: E402
from flows.adapters.mlflow_store import client  # noqa: E402

METRIC = "vtab/mean_of_tasks"


def version(name: str, score: float, source: str, tags: dict[str, str]) -> str:
    """Another version, with this score; nobody loads what is at `source`."""
    mlflow.set_registry_uri(mlflow.get_tracking_uri())
    tags = tags | {f"{mlflow_registry.METRIC}{METRIC}": repr(score)}
    with_name = client().search_registered_models(f"name = '{name}'")
    if not with_name:
        client().create_registered_model(name)
    return str(client().create_model_version(name, source, tags=tags).version)


def promote(name: str, number: str, **gate: Any) -> dict[str, str]:
    decision = mlflow_gate.promote(name, number, Gate(metric=METRIC, **{"min_improvement": 0.0} | gate))
    return {"alias": decision.alias, "sentence": decision.sentence}


def unscore(name: str, number: str) -> str:
    """Remove the score of a version."""
    client().delete_model_version_tag(name, number, f"{mlflow_registry.METRIC}{METRIC}")
    return number


def roll_back(name: str) -> str:
    return mlflow_gate.roll_back(name, who="a test", why="to see").sentence


def champion(name: str) -> str:
    """As a consumer asks."""
    return str(client().get_model_version_by_alias(name, "champion").version)


def state(name: str) -> dict[str, Any]:
    """By version: aliases, score, and the decision that is stored."""
    found = mlflow_registry.versions(name)
    return {
        one.version: {
            "aliases": list(one.aliases),
            "score": one.scores.get(METRIC),
            "decision": one.tags.get(mlflow_gate.DECISION, ""),
        }
        for one in found
    }


def main() -> None:
    known = {function.__name__: function for function in (version, promote, unscore, roll_back, champion, state)}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = known[asked.pop("do")](**asked)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
