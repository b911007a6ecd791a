"""What the registry knows about a version, in sections; how two versions differ. Plain data, printed elsewhere."""

import json
import math
from collections.abc import Mapping
from typing import Any

from flows.adapters.mlflow_gate import DECISION, MOVED_BY
from flows.adapters.mlflow_registry import Version
from flows.adapters.mlflow_runs import FINGERPRINT
from flows.stages.run import flatten

Section = Mapping[str, Any]
COUNTS = ("dedup/", "pretrain/num_", "finetune/num_")  # scores that count data
COSTS = ("device_hours", "exaflops", "seconds", "cost", "restarts", "world_size")


def facts(version: Version) -> dict[str, dict[str, Any]]:
    """Sections `version`, `scores`, `data`, `source`, `config`, `seeds`, `software`, `hardware`, `cost`."""
    tags = version.tags
    config = flatten(json.loads(tags.get("config.resolved", "{}")))
    numbers = {name: value if math.isfinite(value) else None for name, value in sorted(version.scores.items())}
    counts = {name: value for name, value in numbers.items() if name.startswith(COUNTS)}
    costs = {name: value for name, value in numbers.items() if is_cost(name)}
    return {
        "version": {
            "uri": version.uri,
            "aliases": list(version.aliases),
            "created": version.created,
            "decision": tags.get(DECISION),
            "moved by": tags.get(MOVED_BY),
            "fingerprint": tags.get(FINGERPRINT),
            "run": version.run_id,
        },
        "scores": {name: value for name, value in numbers.items() if name not in counts | costs},
        "data": _prefixed(tags, "dvc.") | _prefixed(tags, "input.") | counts,
        "source": _prefixed(tags, "git.") | _prefixed(tags, "vitflow.pipeline", "vitflow.overrides", "prefect."),
        "config": {"sha256": tags.get("config.sha256")} | config,
        "seeds": {name: value for name, value in config.items() if name.split(".")[-1] == "seed"},
        "software": _prefixed(tags, "software."),
        "hardware": _prefixed(tags, "hardware."),
        "cost": costs,
    }


def differences(one: Version, other: Version) -> dict[str, dict[str, tuple[Any, Any]]]:
    """What differs, by section and name, as (one's, other's); None where one does not say."""
    left, right = facts(one), facts(other)
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    for section in left:
        ours, theirs = left[section], right[section]
        names = [*ours, *(name for name in theirs if name not in ours)]
        changed = {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}
        if changed:
            found[section] = changed
    return found


def is_cost(score: str) -> bool:
    """True for what was spent rather than reached: it differs between two runs of the same."""
    return any(word in score for word in COSTS)


def _prefixed(tags: Mapping[str, str], *prefixes: str) -> dict[str, Any]:
    return {name: value for name, value in sorted(tags.items()) if name.startswith(prefixes)}
