"""`vitflow models` and `vitflow predict`: the registry in the terminal or as JSON."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from rich.table import Table

from flows.adapters import mlflow_registry
from flows.adapters.mlflow_registry import Version
from flows.adapters.mlflow_runs import check
from flows.terminal import console

SHOWN_SCORES = ("pretrain/val/top1", "finetune/val/top1", "vtab/natural", "vtab/specialized", "vtab/structured")


def show(name: str | None, *, as_json: bool) -> None:
    """Print the versions of a model, or of all. Raises UnknownModel with the nearest name, ServiceDown."""
    check(os.environ["MLFLOW_TRACKING_URI"])
    found = [
        version
        for model in ([name] if name else mlflow_registry.names())
        for version in mlflow_registry.versions(model)
    ]
    if as_json:
        print(json.dumps([dataclasses.asdict(version) for version in found], indent=2, sort_keys=True))
    elif found:
        console.print(_table(found))
    else:
        console.print("no model is registered yet; `vitflow run mini` makes one")


def predict(images: list[Path], uri: str, top_k: int, *, as_json: bool) -> None:
    """Classify image files. Raises ValueError naming files that do not exist, or a model that does not."""
    missing = [str(path) for path in images if not path.is_file()]
    if missing:
        raise ValueError(f"no such image file: {', '.join(missing)}")
    check(os.environ["MLFLOW_TRACKING_URI"])
    model = mlflow_registry.load(uri)
    rows = model.predict([path.read_bytes() for path in images], params={"top_k": top_k}).to_dict("records")
    answers: list[dict[str, Any]] = [{**row, "image": str(images[int(row["image"])])} for row in rows]
    if as_json:
        print(json.dumps(answers, indent=2))
        return
    table = Table(box=None)
    for column in ("image", "label", "score"):
        table.add_column(column, justify="right" if column == "score" else "left")
    for row in answers:
        table.add_row(row["image"], row["label"], f"{100 * row['score']:.1f} %")
    console.print(table)


def _table(found: list[Version]) -> Table:
    table = Table()
    for column in ("model", "aliases", "pre / fine, top-1", "natural / spec. / struct.", "commit", "config", "created"):
        table.add_column(column)
    for version in found:
        scores = [f"{100 * version.scores[name]:.1f}" if name in version.scores else "–" for name in SHOWN_SCORES]
        commit = version.tags.get("git.commit", "")[:10] + ("+" if version.tags.get("git.dirty") == "true" else "")
        table.add_row(
            version.uri,
            ", ".join(version.aliases),
            " / ".join(scores[:2]),
            " / ".join(scores[2:]),
            commit,
            version.tags.get("config.sha256", "")[:10],
            version.created[:16].replace("T", " "),
        )
    return table
