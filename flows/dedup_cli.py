"""`vitflow dedup`: which training images show a test image, for any folders or shards. Parses, calls and prints."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def dedup(
    train: Annotated[
        list[str], typer.Option("--train", help="Directory of training images, or shards; s3://… too. May be repeated.")
    ],
    test: Annotated[list[str], typer.Option("--test", help="Directory of a benchmark's test images. May be repeated.")],
    out: Annotated[Path, typer.Option("--out", help="Where the result goes; finished work is remembered there.")],
    tier: Annotated[str, typer.Option("--tier", help="fast, thorough, or embedding with --model.")] = "fast",
    action: Annotated[str, typer.Option("--action", help="filter-train, filter-test or both.")] = "both",
    workers: Annotated[int | None, typer.Option("--workers", help="How many at a time; default: all CPUs.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="On the Ray cluster at RAY_ADDRESS, or a local one.")] = False,
    veto: Annotated[
        Path | None, typer.Option("--veto", help="Reviewed pairs (CSV or parquet: test, train, verdict).")
    ] = None,
    rescan: Annotated[
        bool, typer.Option("--rescan", help="Decode the training images again for a benchmark that was added later.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option("--model", help="Of tier embedding: a TorchScript file (SSCD), or weights we read.")
    ] = None,
    resolution: Annotated[int, typer.Option("--resolution", help="Pixels that the model takes.")] = 224,
    trust_model: Annotated[bool, typer.Option("--trust-model", help="Run a TorchScript file: it holds code.")] = False,
    itself: Annotated[
        bool,
        typer.Option("--self", help="Find duplicates inside the training images, too, and keep one of each group."),
    ] = False,
    piece: Annotated[int, typer.Option("--piece", help="Loose files in a piece of work, on average.")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json.")] = False,
) -> None:
    """Find training images that show a test image: exact, edited, cropped, mirrored. No file is changed or deleted."""
    options = {"tier": tier, "action": action, "workers": workers, "ray": ray, "veto": veto, "rescan": rescan}
    options |= {"itself": itself, "model": model, "resolution": resolution, "trust_model": trust_model}
    counts = _run({"train": tuple(train), "test": tuple(test), "out": out, "piece": piece} | options, shown=not as_json)
    if as_json:
        print(json.dumps(counts, indent=2, sort_keys=True))
    else:
        _print(counts, out)


def _run(request: dict[str, Any], *, shown: bool) -> dict[str, Any]:
    """report.json; what the user can mend ends the program with exit code 2."""
    from flows.stages.dedup_folders import MISUSE, Request, deduplicate_folders
    from flows.terminal import counted

    try:
        asked = Request(**request)
        with counted(shown=shown) as tell:

            def say(what: str, done: int, total: int, pairs: int) -> None:
                tell(what, done, total, f"{pairs:,} pairs" if pairs else "")

            return deduplicate_folders(asked, say)
    except MISUSE as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def _print(counts: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title="test images with a near-duplicate in the training set")
    for name in ("benchmark", "test images", "with duplicate", "share", "pairs", "inside"):
        table.add_column(name, justify="left" if name == "benchmark" else "right", overflow="fold")
    for name, found in counts["by_benchmark"].items():
        numbers = (found["test_images"], found["with_duplicate"])
        share = f"{numbers[1] / numbers[0]:.2%}"
        table.add_row(escape(name), *map("{:,}".format, numbers), share, f"{found['pairs']:,}", f"{found['within']:,}")
    console.print(table)
    bad = counts["unreadable"]
    lines = [f"training images: {counts['images_in']:,}, of which {counts['removed']:,} show a test image"]
    lines += [f"kept: {counts['kept']:,}, listed in {out}/kept.parquet and kept.txt"] if "kept" in counts else []
    lines += (
        [f"clean test images: {sum(counts['clean'].values()):,}, in {out}/clean.parquet"] if "clean" in counts else []
    )
    lines += [f"repeated inside: {counts['repeated']:,}, in {out}/repeated.parquet"] if "repeated" in counts else []
    lines += [f"vetoed pairs: {counts['vetoed']:,}, in {out}/vetoed.parquet"] if counts["vetoed"] else []
    if any(bad.values()):
        told = f"{bad['train']:,} training and {bad['test']:,} test images"
        lines.append(f"could not be compared: {told}, in {out}/unreadable.parquet")
    lines.append(f"the pairs: {out}/pairs.parquet; look at them in {out}/report.html")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
