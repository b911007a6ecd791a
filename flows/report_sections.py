"""What a report tells, in order, whatever it is written as: sections of sentences, tables, pictures and commands."""

import dataclasses
import json
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows import forecast
from flows.paper_results import FEW_SHOT, IMAGENET, Published, published
from flows.report import CAPTIONS, Row
from flows.stages.config import Pipeline
from flows.stages.markdown import plain
from flows.stages.suite import AS_IS, TRANSFERRED

INSIDE = ("filters", "positions", "attention_distance", "rollout")
DASH = "–"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG file's bytes and what it shows."""

    png: bytes
    caption: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """One heading of a report and what stands below it; empty parts are left out."""

    title: str
    sentences: tuple[str, ...] = ()
    head: tuple[str, ...] = ()  # of the table
    lines: tuple[tuple[str, ...], ...] = ()
    note: str = ""  # under the table
    pictures: tuple[Picture, ...] = ()
    code: str = ""
    folded: bool = False  # of interest to few: shown on demand


def sections(
    numbers: Mapping[str, Any], config: Pipeline, summary: Sequence[Row], pictures: Sequence[Path]
) -> list[Section]:
    """`numbers` are those of report.results, `summary` its rows, `pictures` the PNG files of the stages."""
    registered, scores = numbers["register"], numbers["evaluate"]
    sentence = f"{registered['uri']}, {registered['alias']}: {registered['decision']}"
    shown = {
        stems: tuple(_picture(path) for path in pictures if path.stem in stems)
        for stems in (("curves",), ("scores",), INSIDE, ("corpus",), ("pairs",))
    }
    told = [
        Section(
            title="Result",
            sentences=(sentence,),
            head=("", "", ""),
            lines=tuple((row.what, row.value, row.note) for row in summary),
        ),
        _beside_the_paper(numbers, config),
        _groups(scores, numbers["pipeline"]),
        dataclasses.replace(_tasks(scores["tasks"]), pictures=shown["scores",]),
        _benchmarks(scores["benchmarks"]),
        _few_shot(scores["tasks"], list(scores["groups"]), scores["downstream"]),
        Section(title="Learning curves", pictures=shown["curves",]),
        _cost(registered["metrics"], work(config, tasks=len(scores["tasks"]))),
        Section(title="Looks inside the network", pictures=shown[INSIDE]),
        Section(title="The corpus", pictures=shown["corpus",]),
        dataclasses.replace(_duplicates(numbers["deduplicate"]["by_benchmark"]), pictures=shown["pairs",]),
        _lineage(registered["tags"]),
        Section(title="Again", sentences=("The same commit and commands give it again:",), code=_again(numbers)),
        Section(
            title="Every number of the configuration",
            code=json.dumps(json.loads(registered["tags"].get("config.resolved", "{}")), indent=2, sort_keys=True),
            folded=True,
        ),
    ]
    return [section for section in told if section.lines or section.pictures or section.code]


def beside_the_paper(numbers: Mapping[str, Any], config: Pipeline) -> list[dict[str, Any]]:
    """Each number that the paper has for this row, and ours where it measures the same: percents, exaFLOPs."""
    pairs: list[dict[str, Any]] = []
    for one in published(numbers["pipeline"]):
        here = _measured(one, numbers, config)
        pairs.append({"what": one.what, "here": here, "paper": one.value, "std": one.std, "source": one.source})
    return pairs


def work(config: Pipeline, *, tasks: int) -> dict[str, dict[str, float]]:
    """Images, steps and exaFLOPs of each training, as they are counted."""
    return {stage: forecast.work(config, stage, tasks=tasks) for stage in forecast.TRAININGS}


def _measured(one: Published, numbers: Mapping[str, Any], config: Pipeline) -> float | None:
    """Our number of the same thing; None where other data were used, or nothing was measured."""
    if one.measured_as == "pretrain/exaflops":
        return work(config, tasks=0)["pretrain"]["exaflops"]
    downstream = config.prepare.downstream or config.prepare
    if one.measured_as in (IMAGENET, FEW_SHOT) and downstream.source != "dataset:imagenet2012":
        return None
    if one.measured_as is None or (one.measured_as.startswith("vtab/") and numbers["evaluate"]["family"] == "mini"):
        return None
    metrics = numbers["register"]["metrics"]
    value = metrics.get(f"{one.measured_as}_mean", metrics.get(one.measured_as))  # of several seeds, or of the one
    return None if value is None else 100 * value


def _beside_the_paper(numbers: Mapping[str, Any], config: Pipeline) -> Section:
    lines: list[tuple[str, ...]] = []
    for pair in beside_the_paper(numbers, config):
        here, spread = pair["here"], "" if pair["std"] is None else f" ± {pair['std']:.2f}"
        apart = DASH if here is None else f"{here - pair['paper']:+.2f}"
        ours = DASH if here is None else f"{here:.2f}"
        lines.append((pair["what"], ours, f"{pair['paper']:.2f}{spread}", apart, pair["source"]))
    note = (
        f"Top-1, %; exaFLOPs where it says so. {DASH}: not measured by this pipeline, or on other data. Table 2 is of "
        "fine-tuning at 512 px (H/14: 518) with averaged weights. Table 9 has the tasks of VTAB-1k."
    )
    return Section(
        title="Beside the paper",
        head=("what", "here", "paper", "difference", "source"),
        lines=tuple(lines),
        note=note,
    )


def _groups(scores: Mapping[str, Any], pipeline: str) -> Section:
    """After Fig. 2."""
    from vit.analysis import comparison

    paper = {one.measured_as: one.value / 100 for one in published(pipeline)} if scores["family"] != "mini" else {}
    by_group: dict[str, dict[str, float | None]] = {}
    for group, mean in scores["groups"].items():
        by_group[group] = {"here": mean["top1"], "from random weights": mean["top1_random_init"]}
        if (value := paper.get(f"vtab/{group}")) is not None:
            by_group[group]["paper"] = value
    head = ("group", *dict.fromkeys(name for group in by_group.values() for name in group))
    lines = tuple((name, *(_percent(group.get(column)) for column in head[1:])) for name, group in by_group.items())
    picture = drawn(
        lambda path: comparison.groups(by_group, path), "Mean top-1 of the tasks of each group (paper Fig. 2)"
    )
    return Section(title="Tasks by group", head=head, lines=lines, note="Mean top-1, %.", pictures=picture)


def _few_shot(
    tasks: Mapping[str, Mapping[str, Any]], groups: Sequence[str], downstream: Mapping[str, Any] | None
) -> Section:
    """After Fig. 4."""
    from vit.analysis import comparison

    shots = _shots(tasks)
    if not shots:
        return Section(title="Few images of each class")
    lines: list[tuple[str, ...]] = []
    for name in (*groups, "all tasks"):
        chosen = [task for task in tasks.values() if name in (task["group"], "all tasks")]
        values = [[task["frozen"]["few_shot"][str(number)]["top1"] for task in chosen] for number in shots]
        lines.append((name, *(_percent(sum(column) / len(column)) for column in values)))
    if downstream is not None:
        few = downstream["few_shot"]
        values = (few.get(str(number), {"top1": None})["top1"] for number in shots)
        lines.append(("downstream images", *(_percent(value) for value in values)))
    picture = drawn(lambda path: comparison.few_shot(tasks, path), "Linear probes of frozen features (paper Fig. 4)")
    return Section(
        title="Few images of each class",
        head=("mean of", *(f"{number} a class" for number in shots)),
        lines=tuple(lines),
        note="Top-1, %, of ridge regression on frozen features.",
        pictures=picture,
    )


def _tasks(tasks: Mapping[str, Mapping[str, Any]]) -> Section:
    shots = _shots(tasks)
    head = ("task", "group", "data", "top-1", "clean", "random weights", "chance", "linear", "nearest")
    head += (*(f"{number} a class" for number in shots), "test images")
    lines: list[tuple[str, ...]] = []
    for name, task in sorted(tasks.items(), key=lambda item: (item[1]["group"], item[0])):
        frozen = task["frozen"]
        few = (frozen["few_shot"].get(str(number), {"top1": None, "std": None}) for number in shots)
        tuned = (task["top1"], task["top1_clean"], task["top1_random_init"], task["chance"])
        lines.append(
            (
                *(name, str(task["group"]), str(task["family"])),
                *(_percent(value, "none left") for value in (*tuned, frozen["linear"], frozen["nearest"])),
                *(_spread(one["top1"], one["std"]) for one in few),
                f"{task['num_test']:,}",
            )
        )
    note = (
        "Top-1, %. Clean: without test images that the corpus shows. Linear, nearest, images a class: probes on frozen "
        "features, the last with the standard deviation over supports (docs/evaluation.md)."
    )
    return Section(title="Tasks", head=head, lines=tuple(lines), note=note)


def _benchmarks(scores: Mapping[str, Mapping[str, Any]]) -> Section:
    """After Table 2."""
    how = {TRANSFERRED: "fine-tuned to it", AS_IS: "as the model answers"}
    lines = [
        (
            *(name, how[one["group"]], _spread(one["top1"], one["top1_std"]), _percent(one["top1_clean"], "none left")),
            f"{one['num_test']:,}",
        )
        for name, one in sorted(scores.items())
    ]
    note = "Top-1, %, with the standard deviation over fine-tunings. Clean: without test images that the corpus shows."
    head = ("data set", "how", "top-1", "clean", "test images")
    return Section(title="Benchmarks of Table 2", head=head, lines=tuple(lines), note=note)


def _shots(tasks: Mapping[str, Mapping[str, Any]]) -> list[int]:
    return sorted({int(shots) for task in tasks.values() for shots in task["frozen"]["few_shot"]})


def _cost(metrics: Mapping[str, Any], counted: Mapping[str, Mapping[str, float]]) -> Section:
    lines: list[tuple[str, ...]] = []
    for stage, done in counted.items():
        hours = metrics.get(f"{stage}/device_hours")
        spent = DASH if hours is None else f"{hours:,.2f}"
        lines.append((stage, f"{done['images']:,.0f}", f"{done['steps']:,.0f}", f"{done['exaflops']:.4g}", spent))
    note = f"exaFLOPs as the paper counts them: head and padding left out. {DASH}: the hours were not recorded."
    head = ("stage", "images seen", "steps", "exaFLOPs", "device-hours")
    return Section(title="Cost", head=head, lines=tuple(lines), note=note)


def _duplicates(benchmarks: Mapping[str, Mapping[str, Any]]) -> Section:
    lines = tuple(
        (name, f"{one['test_images']:,}", f"{one['with_duplicate']:,}", f"{one['pairs']:,}")
        for name, one in benchmarks.items()
    )
    return Section(
        title="Test images that the corpus shows",
        sentences=("Their copies were removed from the corpus before training.",),
        head=("task", "test images", "with a duplicate", "pairs"),
        lines=lines,
    )


def _lineage(tags: Mapping[str, str]) -> Section:
    lines = tuple((name, str(tag)) for name, tag in sorted(tags.items()) if name != "config.resolved")
    return Section(title="Where it comes from", head=("what", "value"), lines=lines)


def _again(numbers: Mapping[str, Any]) -> str:
    """The commands that make this run once more, from a clone."""
    name, overrides = numbers["pipeline"], "".join(f" --set {shlex.quote(one)}" for one in numbers["overrides"])
    commit = numbers["register"]["tags"].get("git.commit", "COMMIT")
    lines = [f"git checkout {commit}", "make setup", ". .venv/bin/activate"]
    lines += [f"vitflow run {name}{overrides}", f"vitflow report {name}{overrides} --html report.html"]
    return "\n".join(lines)


def drawn(draw: Callable[[Path], Path], caption: str) -> tuple[Picture, ...]:
    """A picture that `draw` writes to the path that it is given."""
    with tempfile.TemporaryDirectory() as directory:
        return (Picture(png=draw(Path(directory) / "picture.png").read_bytes(), caption=caption),)


def _picture(path: Path) -> Picture:
    stage = path.parent.name.partition("@")[0]
    return Picture(png=path.read_bytes(), caption=f"{stage}: {CAPTIONS.get(path.stem) or path.stem}")


def _percent(fraction: float | None, otherwise: str = DASH) -> str:
    return otherwise if fraction is None else f"{100 * fraction:.1f}"


def _spread(mean: float | None, deviation: float | None) -> str:
    return "" if mean is None or deviation is None else f"{100 * mean:.1f} ± {100 * deviation:.1f}"


def markdown(title: str, told: Iterable[Section]) -> str:
    """The report as Markdown, without pictures, which would not travel with it."""
    lines = [f"# {plain(title)}", ""]
    for section in told:
        if not (section.lines or section.code):
            continue
        lines += [f"## {section.title}", "", *(f"{plain(sentence)}\n" for sentence in section.sentences)]
        if section.lines:
            lines += [f"| {' | '.join(section.head)} |", "|---" * len(section.head) + "|"]
            lines += [f"| {' | '.join(map(plain, line))} |" for line in section.lines]
            lines += ["", *([section.note, ""] if section.note else [])]
        if section.code:
            lines += ["```", section.code, "```", ""]
    return "\n".join(lines)
