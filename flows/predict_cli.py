"""`vitflow predict`: a registered model's answers: of a few files in the terminal, of a whole folder in a table."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer


def predict(
    images: Annotated[list[str], typer.Argument(help="Image files; with --out a folder or s3:// prefix of them.")],
    model: Annotated[str, typer.Option("--model", help="A registered model.")] = "models:/vit-mini@champion",
    top_k: Annotated[int, typer.Option("--top", help="How many classes to tell for each image.")] = 1,
    out: Annotated[
        str | None,
        typer.Option("--out", help="Where a table of all answers goes: FILE.parquet, .csv or .jsonl, or a folder."),
    ] = None,
    piece: Annotated[int, typer.Option("--piece", help="Images in a piece of work, which is kept once done.")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Classify images with a registered model; a folder on all workers, and what was interrupted goes on."""
    from flows.adapters.mlflow_runs import check
    from flows.stages.config import ConfigError

    check(os.environ["MLFLOW_TRACKING_URI"])
    if out is None:
        _print_answers(_some(images, model, top_k), as_json=as_json)
        return
    if len(images) > 1:
        raise ConfigError(f"--out takes one folder or s3:// prefix, not {len(images)} places: {', '.join(images)}")
    found = _all({"place": images[0], "out": out, "top_k": top_k, "piece": piece}, model, shown=not as_json)
    print(json.dumps(found, indent=2)) if as_json else _print_counts(found)
    if found["errors"] == found["images"]:
        raise typer.Exit(1)


def _some(images: Sequence[str], uri: str, top_k: int) -> list[dict[str, Any]]:
    """A row for each of the `top_k` best classes of each file."""
    missing = [path for path in images if not Path(path).is_file()]
    if missing:
        raise ValueError(f"no such image file: {', '.join(missing)} (of a folder or s3:// prefix say --out, too)")
    from flows.adapters import mlflow_registry

    model = mlflow_registry.load(uri)
    rows = model.predict([Path(path).read_bytes() for path in images], params={"top_k": top_k}).to_dict("records")
    return [{**row, "image": images[int(row["image"])]} for row in rows]


def _all(request: dict[str, Any], uri: str, *, shown: bool) -> dict[str, Any]:
    """Counts of the table that was written."""
    from flows.adapters import mlflow_registry
    from flows.adapters.mlflow_store import patiently
    from flows.stages import progress
    from flows.stages.config import root
    from flows.stages.predict_folder import Request, predict_folder
    from flows.terminal import counted

    version = patiently(lambda: mlflow_registry.version(uri)).uri
    asked = Request(**request, model=version)
    with (
        counted(shown=shown) as tell,
        progress.listening(lambda event: tell(f"images by {version}", event.step, event.total, "")),
    ):
        return predict_folder(asked, root())


def _print_answers(answers: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    from rich.table import Table

    from flows.terminal import console

    if as_json:
        print(json.dumps(answers, indent=2))
        return
    table = Table(box=None)
    for column in ("image", "label", "score"):
        table.add_column(column, justify="right" if column == "score" else "left")
    for row in answers:
        table.add_row(row["image"], row["label"], f"{100 * row['score']:.1f} %")
    console.print(table)


def _print_counts(found: dict[str, Any]) -> None:
    from flows.terminal import console

    lines = [f"{found['images']:,} images by {found['model']}, in {found['out']}"]
    lines += [f"{found['done_before']:,} of them had their answers from a run before"] if found["done_before"] else []
    lines += [f"{found['not_images']:,} other files were passed over"] if found["not_images"] else []
    if found["errors"]:
        named = "; ".join(f"{one['path']} {one['error']}" for one in found["first_errors"])
        lines.append(f"{found['errors']:,} have no answer, their column `error` says why: {named}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
