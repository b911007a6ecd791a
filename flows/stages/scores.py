"""What evaluation leaves in scores.json: transfers and probes, summed up over seeds, tasks and groups."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit.evaluation.probing import FewShot, Probed
from vit.evaluation.vtab import GROUPS, Score, means
from vit.training.sweep import Choice, spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned:
    """One network's transfers to a task: what was chosen on the dev split, and the test score of each seed."""

    choice: Choice
    scores: Mapping[int, Score]

    @property
    def top1s(self) -> list[float]:
        """Of every seed."""
        return [score.top1 for score in self.scores.values()]

    @property
    def any(self) -> Score:
        """That of the first seed, for what is the same for all."""
        return next(iter(self.scores.values()))

    @property
    def top1_clean(self) -> float | None:
        """Mean over the seeds."""
        found = [score.top1_clean for score in self.scores.values() if score.top1_clean is not None]
        return spread(found)[0] if found else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """All results for one task."""

    pretrained: Tuned
    untrained: Tuned
    frozen: Probed


def summarise(
    suite: dict[str, Any],
    judged: Mapping[str, Judged],
    benchmarks: Mapping[str, dict[str, Any]],
    few: FewShot | None,
) -> dict[str, Any]:
    """The content of scores.json (ARCHITECTURE.md) from the results by task."""
    groups = {task["name"]: task["group"] for task in suite["tasks"] if task["group"] in GROUPS}
    families = {task["name"]: task["family"] for task in suite["tasks"]}
    trained = means({task: spread(one.pretrained.top1s)[0] for task, one in judged.items()}, groups)
    random = means({task: spread(one.untrained.top1s)[0] for task, one in judged.items()}, groups)
    seeds = np.array([one.pretrained.top1s for one in judged.values()])
    return {
        "family": suite["family"],
        "tasks": {
            task: {"group": group, "family": families[task]} | _of_task(judged[task]) for task, group in groups.items()
        },
        "groups": {
            group: {"top1": trained[group], "top1_random_init": random[group]} for group in GROUPS if group in trained
        },
        "mean_of_tasks": trained["mean_of_tasks"],
        "mean_of_tasks_std": spread(seeds.mean(axis=0).tolist())[1],
        "mean_of_groups": trained["mean_of_groups"],
        "mean_of_tasks_random_init": random["mean_of_tasks"],
        "mean_of_groups_random_init": random["mean_of_groups"],
        "frozen_mean_of_tasks": mean_of_probes([one.frozen for one in judged.values()]),
        "benchmarks": dict(benchmarks),
        "downstream": None if few is None else {"few_shot": _few(few.few_shot), "num_test": few.num_test},
    }


def benchmarks(suite: Sequence[dict[str, Any]], tuned: Mapping[tuple[str, bool], Tuned]) -> dict[str, dict[str, Any]]:
    """The scores of what is judged beside VTAB's tasks (Table 2)."""
    return {
        task["name"]: {"group": task["group"], "family": task["family"]} | _tested(own) | {"chosen": _chosen(own)}
        for task in suite
        if task["group"] not in GROUPS and (own := tuned[task["name"], True])
    }


def rows(tuned: Mapping[tuple[str, bool], Tuned]) -> list[dict[str, Any]]:
    """Every run on all of train, with what it was run with: `name`, `params` and `metrics`."""
    return [
        {
            "name": f"{'vtab' if pretrained else 'vtab_random_init'}/{task}/seed-{seed}",
            "params": {"learning_rate": one.choice.train.learning_rate, "steps": one.choice.train.steps, "seed": seed},
            "metrics": {"top1": score.top1} | _clean(score),
        }
        for (task, pretrained), one in tuned.items()
        for seed, score in one.scores.items()
    ]


def mean_of_probes(tasks: Sequence[Probed]) -> dict[str, float]:
    """Means over tasks by probe: `few_shot_5`, `linear`, `nearest`."""
    columns = [
        {f"few_shot_{shots}": mean for shots, (mean, _) in task.few_shot.items()}
        | {"linear": task.linear, "nearest": task.nearest}
        for task in tasks
    ]
    return {name: float(np.mean([column[name] for column in columns])) for name in columns[0]}


def _of_task(judged: Judged) -> dict[str, Any]:
    random, deviation = spread(judged.untrained.top1s)
    return _tested(judged.pretrained) | {
        "top1_random_init": random,
        "top1_random_init_std": deviation,
        "chosen": {"pretrained": _chosen(judged.pretrained), "random_init": _chosen(judged.untrained)},
        "frozen": _probed(judged.frozen),
    }


def _tested(tuned: Tuned) -> dict[str, Any]:
    top1, deviation = spread(tuned.top1s)
    return {
        "top1": top1,
        "top1_std": deviation,
        "chance": tuned.any.chance,
        "num_test": tuned.any.num_test,
        "top1_clean": tuned.top1_clean,
        "num_clean": tuned.any.num_clean,
    }


def _chosen(tuned: Tuned) -> dict[str, Any]:
    train = tuned.choice.train
    trials = [dataclasses.asdict(trial) for trial in tuned.choice.trials]
    seeds = {str(seed): score.top1 for seed, score in tuned.scores.items()}
    return {"learning_rate": train.learning_rate, "steps": train.steps, "seeds": seeds, "dev": trials}


def _probed(one: Probed) -> dict[str, Any]:
    return {"few_shot": _few(one.few_shot), "linear": one.linear, "nearest": one.nearest}


def _few(found: Mapping[int, tuple[float, float]]) -> dict[str, dict[str, float]]:
    return {str(shots): {"top1": mean, "std": deviation} for shots, (mean, deviation) in found.items()}


def _clean(score: Score) -> dict[str, float]:
    return {} if score.top1_clean is None else {"top1_clean": score.top1_clean}
