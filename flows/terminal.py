"""What a person sees in the terminal: one line per stage with a live bar, then the summary table."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from flows import report
from flows.stages.config import STAGES
from flows.stages.progress import Progress as Event
from flows.stages.run import Run

if TYPE_CHECKING:  # execute imports every outside system; a command that only prints needs none
    from flows.report_sections import Section
    from flows.stages.execute import Done

console = Console()
errors = Console(stderr=True)
LINE_EVERY = 10.0  # seconds between two lines of progress where there is no terminal
Tell = Callable[[str, int, int, str], None]  # what, done, total, a remark


class LiveStages:
    """The stages of a run as progress bars; `listen` and `stage_done` are told from outside.

    Without a terminal (CI, a pipe) a finished stage is one plain line.
    """

    def __init__(self) -> None:
        self.bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}", style="dim"),
            console=console,
            disable=not console.is_terminal,
        )
        self.tasks = {stage: self.bars.add_task(stage, total=None, start=False, text="") for stage in STAGES}

    def __enter__(self) -> "LiveStages":
        self.bars.start()
        self._start(STAGES[0])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def listen(self, event: Event) -> None:
        from flows.show import sentence

        self.bars.update(self.tasks[event.stage], completed=event.step, total=event.total, text=sentence(event))

    def stage_done(self, stage: str, done: "Done | None") -> None:
        text = "up to date" if done is None else f"done in {done.seconds:.0f} s"
        self.bars.update(self.tasks[stage], completed=1, total=1, text=text)
        self.bars.stop_task(self.tasks[stage])
        if not console.is_terminal:
            console.print(f"{stage}: {text}")
        following = STAGES.index(stage) + 1
        if following < len(STAGES):
            self._start(STAGES[following])

    def _start(self, stage: str) -> None:
        self.bars.start_task(self.tasks[stage])


@contextlib.contextmanager
def counted(*, shown: bool) -> Iterator[Tell]:
    """A bar for each kind of work that is told of; without a terminal a line now and then, and one at its end."""
    columns = (TextColumn("{task.description:<27}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    remark = TextColumn("{task.fields[text]}", style="dim")
    is_live = shown and console.is_terminal
    tasks: dict[str, Any] = {}
    said: dict[str, float] = {}

    with Progress(*columns, TimeRemainingColumn(), remark, console=console, disable=not is_live) as bars:

        def tell(what: str, done: int, total: int, text: str) -> None:
            if what not in tasks:
                tasks[what], said[what] = bars.add_task(what, total=total, text=""), time.monotonic()
            bars.update(tasks[what], completed=done, total=total, text=text)
            if shown and not is_live and (done == total or time.monotonic() - said[what] > LINE_EVERY):
                said[what] = time.monotonic()
                line = f"{what}: {done:,} of {total:,}{text and f', {text}'}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)

        yield tell


def print_summary(run: Run) -> None:
    """The table a run ends with, the decision about the alias, and where to look next."""
    table = Table(title=f"pipeline {run.pipeline}" + (f" with {' '.join(run.overrides)}" if run.overrides else ""))
    table.add_column("what")
    table.add_column("result", justify="right", style="bold")
    table.add_column("", style="dim")
    for row in report.rows(run):
        table.add_row(row.what, row.value, row.note)
    console.print(table)
    console.print(report.decision(run))
    console.print()
    print_rows("where to look next", report.next_steps(run))


def print_rows(title: str, rows: Iterable[report.Row]) -> None:
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        grid.add_row(f"  {row.what}", row.value, f"[dim]{row.note}")
    console.print(f"[bold]{title}")
    console.print(grid, soft_wrap=True)


def print_table(section: "Section") -> None:
    """The table of a report's section."""
    table = Table(title=section.title, caption=section.note)
    for place, name in enumerate(section.head):
        table.add_column(escape(name), justify="right" if place else "left")
    for line in section.lines:
        table.add_row(*map(escape, line))
    console.print(table)


def print_forecast(expected: Mapping[str, Any]) -> None:
    """What a run would do, on which data, at which cost, and what is missing here."""
    table = Table(title=f"pipeline {expected['pipeline']}: what would run")
    for column in ("stage", "", "because"):
        table.add_column(column)
    for stage, plan in expected["stages"].items():
        colour, reasons = "green" if plan["state"] == "up to date" else "yellow", plan["because"]
        shown = "\n".join(reasons[:4]) + ("\n…" if len(reasons) > 4 else "")
        table.add_row(stage, f"[{colour}]{plan['state']}", escape(shown))
    console.print(table)
    places = [
        report.Row(what=what, value=escape(one["source"]), note=escape(_place(one)))
        for what, one in expected["data"].items()
    ]
    print_rows("on which data", places)
    console.print()
    _print_cost(expected)
    console.print()
    missing = expected["missing"] or ["nothing"]
    console.print("[bold]missing on this machine")
    for sentence in missing:
        console.print(f"  {sentence}", highlight=False, markup=False, soft_wrap=True)


def _place(one: Mapping[str, Any]) -> str:
    if one["location"] is None:
        return "comes with vitflow"
    return f"{one['location']}, {'not complete' if one['missing'] else 'there'}"


def _print_cost(expected: Mapping[str, Any]) -> None:
    devices, memory = expected["devices"], expected["memory"]
    named = f"{devices['number']} x {devices['name']}, {devices['peak'] / 1e12:,.2f} TFLOP/s each {devices['source']}"
    table = Table(title=f"at which cost, on {named}")
    for column in ("stage", "images seen", "steps", "exaFLOPs", "device-hours", "a checkpoint"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, cost in expected["cost"].items():
        hours, size = f"{cost['device_hours']:,.2f}", f"{cost['checkpoint_bytes'] / 1e9:,.2f} GB"
        table.add_row(stage, f"{cost['images']:,}", f"{cost['steps']:,}", f"{cost['exaflops']:,.3g}", hours, size)
    console.print(table)
    console.print(
        f"pre-training takes {memory['fixed_bytes'] / 1e9:,.2f} GB of memory on a device, and "
        f"{memory['bytes_per_image'] / 1e6:,.1f} MB for each image of a pass",
        highlight=False,
    )


def fail(sentence: str) -> None:
    """An error, as a sentence on standard error."""
    errors.print("[red]error:[/red]", end=" ")
    errors.print(sentence, soft_wrap=True, highlight=False, markup=False)
