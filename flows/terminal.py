"""What a person sees in the terminal: one line per stage with a live bar, then the summary table."""

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from flows import report
from flows.stages.config import STAGES
from flows.stages.progress import Progress as Event
from flows.stages.run import Run

if TYPE_CHECKING:  # execute imports every outside system; a command that only prints needs none
    from flows.stages.execute import Done

console = Console()
errors = Console(stderr=True)


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


def print_plan(run: Run, plan: dict[str, tuple[str, ...]]) -> None:
    """What a run would do."""
    table = Table(title=f"pipeline {run.pipeline}: what would run")
    for column in ("stage", "", "because"):
        table.add_column(column)
    for stage, reasons in plan.items():
        state = "[yellow]would run" if reasons else "[green]up to date"
        table.add_row(stage, state, "\n".join(reasons[:4]) + ("\n…" if len(reasons) > 4 else ""))
    console.print(table)


def fail(sentence: str) -> None:
    """An error, as a sentence on standard error."""
    errors.print("[red]error:[/red]", end=" ")
    errors.print(sentence, soft_wrap=True, highlight=False, markup=False)
