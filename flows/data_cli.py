"""`vitflow data`: what lies in a directory or in S3, and the archives of published data sets.

Parses, calls and prints.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vit.data.inspection import Corpus

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
SHOWN_CLASSES = 8  # of each end, by number of images
SHOWN_REJECTS = 20  # --json prints them all
BAR = 30  # characters
data = typer.Typer(no_args_is_help=True, help="Look at images and labels; get the archives of published data sets.")


@data.command()
def inspect(
    location: Annotated[
        str, typer.Argument(help="Prepared shards, a folder of images, a table, webdataset or parquet; s3://… too.")
    ],
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Write a contact sheet to this PNG file.")] = None,
    as_json: Json = False,
    source: Annotated[
        str | None, typer.Option("--source", help="What lies there, as in pipelines.yaml; else guessed from the files.")
    ] = None,
    classes: Annotated[str | None, typer.Option("--classes", help="A file with a class name on each line.")] = None,
    num_val: Annotated[int, typer.Option("--num-val", help="ImageNet-21k: images to hold out as val.")] = 0,
    merge: Annotated[bool, typer.Option("--merge", help="ImageNet-21k: one image for equal bytes.")] = False,
) -> None:
    """Count, measure and check the images; unusable ones and all that is odd are named."""
    from vit.data import inspection

    kind, corpus, rejects = _opened(location, source, classes=classes, num_val=num_val, merge=merge)
    facts: dict[str, Any] = {"location": location, "kind": kind, **inspection.describe(corpus)}
    if sheet is not None:
        inspection.sheet(corpus).save(sheet, "PNG", optimize=True)
    if as_json:
        print(json.dumps(facts | {"rejected": rejects}, indent=2, ensure_ascii=False))
        return
    _print(facts, rejects)
    if sheet is not None:
        print(f"contact sheet: {sheet}")


@data.command("list")
def list_sets(as_json: Json = False) -> None:
    """Name the published data sets that `source: dataset:NAME` reads, and their archives."""
    from vit.data import datasets

    found = {name: [archive.name for archive in datasets.published(name)] for name in datasets.names()}
    if as_json:
        print(json.dumps(found, indent=2))
        return
    from flows.report import Row
    from flows.terminal import print_rows

    print_rows("data sets", [Row(what=name, value=", ".join(files)) for name, files in found.items()])


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A data set of `vitflow data list`.")],
    directory: Annotated[Path, typer.Argument(help="Where its archives are, or are to be.")],
    download: Annotated[bool, typer.Option("--download", help="Download what is missing.")] = False,
) -> None:
    """Verify the archives of a data set; without --download nothing is fetched, only named."""
    from vit.data import datasets

    for path in datasets.fetch(name, directory, download):
        print(f"{path}: as published")


def _opened(location: str, source: str | None, **options: Any) -> "tuple[str, Corpus, list[dict[str, str]]]":
    """The kind of what lies there, its images, and what was rejected (key, reason)."""
    from flows.adapters import storage
    from flows.stages.corpora import check_kind, guess, open_source
    from vit.data import inspection
    from vit.data.checking import check_as_found, threads
    from vit.data.index import read_rejects
    from vit.data.shards import Shards

    kind = check_kind(source) if source else guess(location)
    if kind == "prepared":
        kind, location = "shards", f"{location.rstrip('/')}/corpus"
    if kind == "shards":
        shards = Shards(storage.open(location), open_store=storage.open)
        rejects = read_rejects(shards.home)
        look = inspection.Corpus(
            table=shards.table,
            class_names=shards.class_names,
            rejects=[reject["reason"] for reject in rejects],
            read=shards.read,
        )
        return kind, look, rejects
    found = open_source(kind, location, **options)
    checked = check_as_found(found, map=threads)
    look = inspection.Corpus(
        table=checked.table,
        class_names=found.class_names,
        rejects=checked.rejects["reason"].to_pylist(),
        read=lambda row: checked.records[row].read(),
    )
    return kind, look, checked.rejects.to_pylist()


def _print(facts: dict[str, Any], rejects: list[dict[str, str]]) -> None:
    from rich.filesize import decimal
    from rich.markup import escape

    from flows.report import Row
    from flows.terminal import console, print_rows

    splits = ", ".join(f"{name or 'not yet cut'} {count:,}" for name, count in facts["splits"].items())
    rows = [
        Row(what="images", value=f"{facts['images']:,}", note=decimal(facts["bytes"])),
        Row(what="splits", value=escape(splits)),
        Row(what="formats", value=", ".join(f"{name} {count:,}" for name, count in facts["formats"].items())),
    ]
    for side in ("width", "height"):
        lengths = facts[side]
        rows.append(
            Row(what=side, value=f"{lengths['min']} to {lengths['max']} px", note=f"median {lengths['median']}")
        )
    print_rows(escape(f"{facts['location']} ({facts['kind']})"), rows)
    print_rows("shorter side, px", _bars(facts["shorter_side"]))
    classes = sorted(facts["classes"].items(), key=lambda item: (-item[1], item[0]))
    few = len(classes) <= 2 * SHOWN_CLASSES
    shown = dict(classes if few else classes[:SHOWN_CLASSES] + classes[-SHOWN_CLASSES:])
    print_rows(f"{len(classes):,} classes" + ("" if few else ", the largest and the smallest"), _bars(shown))
    for sentence in facts["odd"]:
        console.print(f"odd: {sentence}", markup=False, highlight=False, soft_wrap=True)
    for reject in rejects[:SHOWN_REJECTS]:
        console.print(f"rejected: {reject['key']} {reject['reason']}", markup=False, highlight=False, soft_wrap=True)
    if len(rejects) > SHOWN_REJECTS:
        console.print(f"rejected: {len(rejects) - SHOWN_REJECTS:,} more, see --json", highlight=False)


def _bars(counts: dict[str, int]) -> list[Any]:
    from rich.markup import escape

    from flows.report import Row

    largest = max(counts.values(), default=1) or 1
    return [
        Row(what=escape(name), value=f"{count:,}", note="▇" * max(count > 0, round(BAR * count / largest)))
        for name, count in counts.items()
    ]
