"""What evaluate does with a model: settings chosen on dev splits, then each seed on all of train, for every task."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from flows.stages.scores import Judged, Tuned
from flows.stages.suite import DOWNSTREAM
from flows.stages.transfers import Piece, Subject, score_all
from vit.data.shards import Shards
from vit.evaluation.probing import FewShot, ProbeConfig, Probed
from vit.evaluation.vtab import TRAIN_SPLITS, Score
from vit.training.hyperrule import Protocol, TransferConfig, applied
from vit.training.sweep import Choice, SweepConfig, Wanted, choose, grid, repeated

Network: TypeAlias = tuple[str, bool]  # by which task it is judged, and whether it starts from the model


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """A row of Table 4; the rest is as for VTAB's tasks. Chosen on the part of train that the paper holds out."""

    steps: int  # updates
    warmup_steps: int  # updates
    learning_rates: Sequence[float]  # the grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How each task is done."""

    hows: Mapping[str, TransferConfig]
    sweeps: Mapping[str, SweepConfig]
    splits: Mapping[str, tuple[str, str]]  # to train on, and to choose on
    networks: Sequence[Network]  # transfers
    frozen: Mapping[str, ProbeConfig]  # tasks whose frozen features are scored
    as_is: Sequence[str]  # benchmarks that the model answers with its own head
    few_shot: Piece | None  # of the downstream images

    def piece(self, network: Network, **changes: Any) -> Piece:
        """One transfer; `train` is that of the task unless it is given."""
        task, pretrained = network
        how = self.hows[task]
        transfer = dataclasses.replace(how, train=changes.pop("train", how.train))
        splits = self.splits.get(task, TRAIN_SPLITS)
        return Piece(task=task, pretrained=pretrained, transfer=transfer, splits=splits, **changes)

    def finals(self, choices: Mapping[Network, Choice]) -> dict[Network, dict[int, Piece]]:
        """What is scored on the test splits, by seed."""
        found = {(task, True): {0: self.piece((task, True), as_is=True)} for task in self.as_is}
        for network in self.networks:
            sweep = self.sweeps[network[0]]
            found[network] = {
                train.seed: self.piece(network, train=train, variant=f"seed-{train.seed}" if sweep.seeds else "")
                for train in repeated(sweep, choices[network].train)
            }
        return found


def judge(
    plan: Plan, subject: Subject, rungs: Sequence[float], scratch: Path
) -> tuple[dict[Network, Tuned], dict[str, Probed], FewShot | None]:
    """The transfers of every network, by task the scores of its frozen features, and those on downstream images."""

    def dev_scores(wanted: Sequence[Wanted[Network]]) -> list[float]:
        parts = [plan.piece(one.subject, train=one.train, on_dev=True, variant=one.name) for one in wanted]
        found = score_all(subject, parts, scratch)
        return [cast(Score, found[part.name]).top1 for part in parts]

    points = {network: grid(plan.sweeps[network[0]], plan.hows[network[0]].train) for network in plan.networks}
    choices = choose(points, rungs, dev_scores)
    choices |= {(task, True): Choice(train=plan.hows[task].train, trials=()) for task in plan.as_is}
    finals = plan.finals(choices)
    frozen = {task: plan.piece((task, True), probes=probes) for task, probes in plan.frozen.items()}
    few = [] if plan.few_shot is None else [plan.few_shot]
    tests = [one for runs in finals.values() for one in runs.values()]
    done = score_all(subject, [*few, *frozen.values(), *tests], scratch)
    tuned = {
        network: Tuned(
            choice=choices[network], scores={seed: cast(Score, done[one.name]) for seed, one in runs.items()}
        )
        for network, runs in finals.items()
    }
    probed = {task: cast(Probed, done[one.name]) for task, one in frozen.items()}
    return tuned, probed, cast(FewShot, done[few[0].name]) if few else None


def few_shot_piece(how: TransferConfig, probes: ProbeConfig) -> Piece:
    """On the downstream images, shown as the authors' few-shot code does."""
    transfer = dataclasses.replace(how, augment=dataclasses.replace(how.augment, evaluation="inner"))
    return Piece(task=DOWNSTREAM, pretrained=True, transfer=transfer, probes=probes, splits=("train", "val"))


def by_task(tuned: Mapping[Network, Tuned], frozen: Mapping[str, Probed]) -> dict[str, Judged]:
    """VTAB's tasks: those that have frozen features scored, and random weights beside the model."""
    return {
        task: Judged(pretrained=tuned[task, True], untrained=tuned[task, False], frozen=probed)
        for task, probed in frozen.items()
    }


def hows(
    protocol: Protocol, asked: TransferConfig, tasks: Path, splits: Mapping[str, tuple[str, str]]
) -> dict[str, TransferConfig]:
    """For each task what the protocol makes of its images to train on."""
    return {task: applied(protocol, asked, Shards(tasks / task, splits=own)) for task, own in splits.items()}


def named(names: Iterable[str], known: Mapping[str, BenchmarkConfig]) -> dict[str, BenchmarkConfig]:
    """The settings of these benchmarks; raises ValueError for one that has none."""
    if missing := [name for name in names if name not in known]:
        raise ValueError(
            f"prepare made the benchmark {missing[0]}, but evaluate.benchmarks does not say how to transfer to it: add "
            f"its row of Table 4, such as {missing[0]}: {{steps: 10000, warmup_steps: 500, learning_rates: [0.01]}}"
        )
    return {name: known[name] for name in names}
