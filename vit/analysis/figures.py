"""Figures as PNG files: the same numbers give the same bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # importing matplotlib takes a second, and every command imports this module
    from matplotlib.figure import Figure

GROUP_COLOURS = {"natural": "#3b7dd8", "specialized": "#2e9e6b", "structured": "#d8803b"}
RANDOM = "#b9b9b9"


def training_curve(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Loss and learning rate over the steps; rows have `step`, `train/loss`, `train/learning_rate`."""
    figure = new_figure(6.4, 3.4)
    loss = figure.subplots()
    steps = [row["step"] for row in rows]
    loss.plot(steps, [row["train/loss"] for row in rows], color="#3b7dd8")
    loss.set(xlabel="step", ylabel="training loss", title=title)
    loss.set_ylim(0, 1.08 * max(row["train/loss"] for row in rows))
    rate = loss.twinx()
    rate.plot(steps, [row["train/learning_rate"] for row in rows], color="#b9b9b9", linestyle="--")
    rate.set_ylabel("learning rate (dashed)")
    rate.set_ylim(bottom=0)
    save(figure, path)


def task_scores(scores: Mapping[str, Any], path: Path) -> None:
    """Top-1 per task, coloured by group, beside the same transfer from random weights; chance as a tick.

    `scores` is the content of scores.json.
    """
    tasks: Mapping[str, Mapping[str, Any]] = scores["tasks"]
    figure = new_figure(8.4, 3.8)
    axes = figure.subplots()
    x = np.arange(len(tasks))
    colours = [GROUP_COLOURS[task["group"]] for task in tasks.values()]
    axes.bar(x - 0.2, [100 * task["top1"] for task in tasks.values()], 0.4, color=colours)
    axes.bar(x + 0.2, [100 * task["top1_random_init"] for task in tasks.values()], 0.4, color=RANDOM)
    axes.hlines([100 * task["chance"] for task in tasks.values()], x - 0.4, x + 0.4, color="black", linewidth=1)
    axes.set_xticks(x, [name.removeprefix("mini_") for name in tasks], rotation=30)
    axes.set(ylabel="top-1, %", ylim=(0, 100), title=f"{scores['family']}-VTAB, 1,000 examples a task")
    labels = [f"{group}: {100 * mean['top1']:.1f}" for group, mean in scores["groups"].items()]
    handles = [axes.bar(0, 0, color=GROUP_COLOURS[group]) for group in scores["groups"]]
    axes.legend([*handles, axes.bar(0, 0, color=RANDOM)], [*labels, "from random weights"], fontsize="small", ncols=2)
    save(figure, path)


def new_figure(width: float, height: float) -> "Figure":
    """Sizes in inches, of 100 pixels each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", path: Path) -> Path:
    """Write a PNG that says nothing of when and with what it was made; the path."""
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})
    return path
