"""`vitflow`, the command line: parses and calls.

Exit codes: 0 done, 1 a stage failed, 2 wrong usage or config, 3 a service does not answer, 130 interrupted.
"""

import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import (
    analysis_cli,
    bench_cli,
    data_cli,
    dedup_cli,
    faults_cli,
    predict_cli,
    registry_cli,
    report_cli,
    zoo,
)
from flows.environment import Database, apply_defaults, end_orphaned_servers

FAILED, MISUSED, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Images in, a registered Vision Transformer out.",
)
app.add_typer(data_cli.data, name="data")
app.add_typer(bench_cli.bench, name="bench")
app.add_typer(faults_cli.faults, name="faults")
app.add_typer(registry_cli.models, name="models")
app.add_typer(zoo.weights, name="weights")
app.command()(dedup_cli.dedup)
app.command()(analysis_cli.analyse)
app.command()(report_cli.report)
app.command()(predict_cli.predict)
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def main() -> None:
    """Run the command; every error is a sentence and an exit code."""
    apply_defaults()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: workers and servers of the run end with it
    # Warnings of libraries that a user can do nothing about would bury our own lines.
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.addFilter(lambda record: not record.name.startswith("prefect"))  # our own sentence says what failed
    logging.basicConfig(handlers=[handler], format="%(levelname)s: %(message)s")
    try:
        app()
    except KeyboardInterrupt:
        _exit("interrupted; run the same command again to go on from the last checkpoint", INTERRUPTED)
    except (ConnectionError, TimeoutError) as error:
        _exit(str(error), UNAVAILABLE)
    except ValueError as error:
        from flows.stages.config import ConfigError

        _exit(str(error), MISUSED if isinstance(error, ConfigError) else FAILED)
    except (OSError, RuntimeError, ArithmeticError) as error:
        _exit(str(error), FAILED)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="A pipeline of pipelines.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value for this run: a.b=c. May be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would run, on which data, at which cost, what is missing.")
    ] = False,
    on: Annotated[
        str | None,
        typer.Option("--on", help="Of a dry run: devices to reckon with, like 8xH100.", show_default="this machine"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a pipeline; stages that are up to date are skipped, a stage that was interrupted goes on."""
    from flows import report, terminal
    from flows.stages.run import Run

    this = Run.of(name, tuple(overrides or ()))
    plan = this.plan()
    if dry_run:
        from flows import forecast

        devices = forecast.Devices.here() if on is None else forecast.Devices.named(on)
        expected = forecast.forecast(this, plan, devices)
        _print_json(expected) if as_json else terminal.print_forecast(expected)
        return
    if any(plan.values()) or "PREFECT_API_URL" in os.environ:
        _run_flow(this, show=not as_json)
    elif not as_json:
        for stage in plan:
            terminal.console.print(f"{stage}: up to date")
    _print_json(report.results(this)) if as_json else terminal.print_summary(this)


@app.command()
def pipelines(as_json: Json = False) -> None:
    """List the pipelines of pipelines.yaml."""
    from flows import terminal
    from flows.report import Row
    from flows.stages.config import load, names

    described = {name: load(name).deploy.description for name in names()}
    if as_json:
        _print_json(described)
    else:
        terminal.print_rows("pipelines", [Row(what=name, value=text) for name, text in described.items()])


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server and UI.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server and UI.")] = 5000,
    database: Annotated[
        Database, typer.Option(help="Of both; auto: PostgreSQL if it is installed and nothing is in SQLite yet.")
    ] = Database.AUTO,
) -> None:
    """Start Prefect, MLflow and a runner for all pipelines in the foreground; Ctrl-C stops them."""
    from flows import stack

    stack.up(prefect_port=prefect_port, mlflow_port=mlflow_port, database=database)


@app.command()
def deploy(
    pipelines: Annotated[
        list[str] | None, typer.Argument(help="Pipelines of pipelines.yaml; all of them by default.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option("--pool", help="Whose workers run them, instead of deploy.work_pool.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only show what differs; exit code 1 if anything does.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove deployments of pipelines that are no more, unasked.")
    ] = False,
) -> None:
    """Put pipelines on the Prefect server as deployments, with schedule, form and description."""
    from flows import deploy_cli

    raise typer.Exit(deploy_cli.deploy(pipelines or [], pool, check=check, yes=yes))


@app.command()
def backup(out: Annotated[Path, typer.Argument(help="A folder that is not there yet.")]) -> None:
    """Copy the registry, the runs and their artifacts of this checkout into a folder; also while in use."""
    from flows import backup as backups
    from flows import terminal

    written = backups.backup(out)
    terminal.console.print(f"{len(written['files'])} files of {written['database']} and artifacts are in {out}")


@app.command()
def restore(
    backed_up: Annotated[Path, typer.Argument(help="What `vitflow backup` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Move what this checkout has to .vitflow/before-restore-… first.")
    ] = False,
) -> None:
    """Put a backup back into this checkout, or into a fresh one."""
    from flows import backup as backups
    from flows import terminal

    restored = backups.restore(backed_up, replace=replace)
    terminal.console.print(f"restored what was backed up at {restored['created']}; commit {restored['commit'][:8]}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check what is installed, which services answer, what is misconfigured, and say how to mend it."""
    from flows import doctor as checks

    raise typer.Exit(checks.show(as_json=as_json))


def _run_flow(this: Any, *, show: bool) -> None:
    """Run in this process, with Prefect's temporary server unless PREFECT_API_URL names one."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # its lines would tear the bars apart
    from prefect.exceptions import TerminationSignal

    from flows import show as shown
    from flows import temporary_server, terminal
    from flows.adapters import mlflow_runs
    from flows.pipeline import vit_pipeline

    mlflow_runs.check(os.environ["MLFLOW_TRACKING_URI"])
    with contextlib.ExitStack() as stack:
        if "PREFECT_API_URL" not in os.environ:
            end_orphaned_servers()
            stack.enter_context(temporary_server.kept())
        live = stack.enter_context(terminal.LiveStages()) if show else None
        if live is not None:
            shown.watch(live.listen, live.stage_done)
        try:
            vit_pipeline(this.pipeline, list(this.overrides))
        except TerminationSignal as error:  # a training that saved itself on SIGTERM
            raise KeyboardInterrupt from error


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, sort_keys=True, default=str))


def _exit(sentence: str, code: int) -> None:
    from flows import terminal

    terminal.fail(sentence)
    sys.exit(code)


if __name__ == "__main__":
    main()
