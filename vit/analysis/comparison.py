"""Pictures of what runs amount to, after the paper's: groups of VTAB (Fig. 2), few shots (Fig. 4), cost (Fig. 5)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit.analysis.figures import GROUP_COLOURS, RANDOM, new_figure, save

LINES = ("#3b7dd8", "#d8803b", "#2e9e6b", "#a050b0", "#c0392b", "#607080")
Point = tuple[str, float, float]  # name, x, y


def groups(scores: Mapping[str, Mapping[str, float | None]], path: Path) -> Path:
    """Bars of each group: `scores` are fractions by group and by whose they are, such as {"natural": {"here": 0.8}}."""
    figure = new_figure(7.4, 3.4)
    axes = figure.subplots()
    names = list(dict.fromkeys(name for group in scores.values() for name in group))
    colours = dict(zip(names, (*LINES[:1], RANDOM, *LINES[1:]), strict=False))
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        shown = [(x, group[name]) for x, group in enumerate(scores.values()) if group.get(name) is not None]
        bars = axes.bar(
            [x + (place - (len(names) - 1) / 2) * width for x, _ in shown],
            [100 * value for _, value in shown if value is not None],
            width,
            color=colours[name],
            label=name,
        )
        axes.bar_label(bars, fmt="%.1f", fontsize="small")
    axes.set_xticks(range(len(scores)), list(scores))
    axes.set(ylabel="top-1, %", ylim=(0, 108))
    axes.legend(fontsize="small", ncols=len(names), loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return save(figure, path)


def few_shot(tasks: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Top-1 of linear probes by images of each class: means of the groups and of all tasks of scores.json's `tasks`."""
    figure = new_figure(7.4, 3.4)
    axes = figure.subplots()
    shots = sorted({int(number) for task in tasks.values() for number in task["frozen"]["few_shot"]})
    for group, colour in (*GROUP_COLOURS.items(), ("all tasks", "black")):
        chosen = [task for task in tasks.values() if group in (task["group"], "all tasks")]
        lines = [[task["frozen"]["few_shot"][str(number)]["top1"] for number in shots] for task in chosen]
        if lines:
            style = "o--" if group == "all tasks" else "o-"
            axes.plot(shots, 100 * np.mean(lines, axis=0), style, color=colour, label=group)
    axes.set_xscale("log")
    axes.set_xticks(shots, [str(number) for number in shots])
    axes.minorticks_off()
    axes.set(xlabel="images of each class", ylabel="top-1, %")
    axes.legend(fontsize="small")
    return save(figure, path)


def scatter(lines: Mapping[str, Sequence[Point]], path: Path, *, x: str, y: str) -> Path:
    """Named points, a line and a colour for each kind; a logarithmic axis across, percent upwards (y are fractions)."""
    figure = new_figure(7.4, 4.0)
    axes = figure.subplots()
    for colour, (kind, points) in zip(LINES, lines.items(), strict=False):
        ordered = sorted(points, key=lambda point: point[1])
        heights = [100 * point[2] for point in ordered]
        axes.plot([point[1] for point in ordered], heights, "o-", color=colour, label=kind, linewidth=1)
    for name, across, height in next(iter(lines.values()), ()):
        axes.annotate(name, (across, 100 * height), weight="bold", xytext=(4, -12), textcoords="offset points")
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.15)
    axes.set(xlabel=x, ylabel=y)
    axes.legend(fontsize="small")
    return save(figure, path)
