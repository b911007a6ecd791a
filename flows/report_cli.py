"""`vitflow report`: a finished run in the terminal, as a page, as Markdown or JSON; or several side by side."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flows.report_sections import Section


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="A pipeline; several, or directories like runs/NAME/register@FINGERPRINT, to compare them."
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="The overrides of the run, if it had any.")
    ] = None,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page that opens without a network.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the same as Markdown.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Print the results of a finished run again, or of several side by side; or write them."""
    if len(runs) > 1 or Path(runs[0]).is_dir():
        _compare(runs, overrides, page, markdown, as_json=as_json)
        return
    from flows import report as results
    from flows import terminal
    from flows.stages.run import Run

    this = Run.of(runs[0], tuple(overrides or ()))
    if page is not None or markdown is not None:
        _write(results.title(this), results.told(this), page, markdown)
    elif as_json:
        _print_json(results.everything(this))
    else:
        terminal.print_summary(this)


def _compare(
    runs: list[str], overrides: list[str] | None, page: Path | None, markdown: Path | None, *, as_json: bool
) -> None:
    from flows import report_compare, terminal
    from flows.stages.config import ConfigError, root

    if overrides:
        raise ConfigError("--set belongs to one run; to compare, name directories like runs/NAME/register@FINGERPRINT")
    outcomes = [report_compare.outcome(run, root()) for run in runs]
    sections = report_compare.sections(outcomes)
    if page is not None or markdown is not None:
        _write("Runs side by side", sections, page, markdown)
    elif as_json:
        _print_json(report_compare.numbers(outcomes))
    else:
        terminal.print_table(sections[0])


def _write(title: str, sections: "list[Section]", page: Path | None, markdown: Path | None) -> None:
    from flows import report_page, report_sections

    written = {page: report_page.page, markdown: report_sections.markdown}
    for path, write in written.items():
        if path is not None:
            path.write_text(write(title, sections), encoding="utf-8")
            typer.echo(str(path))


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, sort_keys=True, default=str))
