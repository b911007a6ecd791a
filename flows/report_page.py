"""A finished run as one HTML page that opens without a network: for someone who was not there."""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.report import Row

STYLE = """
:root{--ink:#1c2430;--soft:#5c6675;--line:#d9dee6;--back:#f6f7f9}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.45 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}
h2{font-size:1.15rem;margin:2rem 0 .5rem}
p,.note{color:var(--soft);max-width:75ch;overflow-wrap:anywhere}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;background:#fff;border:1px solid var(--line)}
th,td{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
.free td{overflow-wrap:anywhere}
th{font-size:.8rem;color:var(--soft)}
td.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
figure{margin:.8rem 0;background:#fff;border:1px solid var(--line);border-radius:8px;padding:.6rem}
figure img{max-width:100%;height:auto;display:block;margin:auto}
figcaption{color:var(--soft);font-size:.875rem;margin-top:.4rem}
pre{background:#fff;border:1px solid var(--line);padding:.6rem;overflow-x:auto;font-size:.8rem}
"""


def page(
    numbers: Mapping[str, Any], summary: Sequence[Row], captions: Mapping[str, str], pictures: Iterable[Path]
) -> str:
    """`numbers` are those of report.results, `summary` its rows; pictures are put inside the page, with captions."""
    registered = numbers["register"]
    title = " ".join([str(numbers["pipeline"]), *map(str, numbers["overrides"])])
    body = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{_text(registered['uri'])}, {_text(registered['alias'])}: {_text(registered['decision'])}</p>",
        _table(("", "", ""), [(row.what, row.value, row.note) for row in summary]),
        "<h2>Tasks</h2>",
        _tasks(numbers["evaluate"]["tasks"]),
        "<h2>Test images that the corpus shows</h2>",
        "<p>Their copies were removed from the corpus before training.</p>",
        _duplicates(numbers["deduplicate"]["by_benchmark"]),
        "<h2>Pictures</h2>",
        *(_figure(path, captions.get(path.stem, "")) for path in pictures),
        "<h2>Where it comes from</h2>",
        _lineage(registered["tags"]),
        "<h2>Again</h2>",
        f"<pre>{_text(_again(numbers))}</pre>",
        "<details><summary>Every number of the configuration</summary>",
        f"<pre>{_text(_indented(str(registered['tags'].get('config.resolved', '{}'))))}</pre></details>",
    ]
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{_text(title)}</title>"
    return f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style></head><body><main>{''.join(body)}</main>"


def _tasks(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    shots = sorted({int(shots) for task in tasks.values() for shots in task["frozen"]["few_shot"]})
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
                *map(_percent, (*tuned, frozen["linear"], frozen["nearest"])),
                *(_spread(one["top1"], one["std"]) for one in few),
                f"{task['num_test']:,}",
            )
        )
    note = (
        "<p class='note'>Top-1, %. Clean: without test images that the corpus shows. Linear, nearest, images a class: "
        "probes on frozen features, the last with the standard deviation over supports (docs/evaluation.md).</p>"
    )
    return _table(head, lines) + note


def _duplicates(benchmarks: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        (name, f"{one['test_images']:,}", f"{one['with_duplicate']:,}", f"{one['pairs']:,}")
        for name, one in benchmarks.items()
    ]
    return _table(("task", "test images", "with a duplicate", "pairs"), lines)


def _lineage(tags: Mapping[str, str]) -> str:
    return _table(("what", "value"), [(name, tag) for name, tag in sorted(tags.items()) if name != "config.resolved"])


def _again(numbers: Mapping[str, Any]) -> str:
    """The commands that make this run once more."""
    overrides = "".join(f" --set {override}" for override in numbers["overrides"])
    commit = numbers["register"]["tags"].get("git.commit", "COMMIT")
    return f"git checkout {commit}\nvitflow run {numbers['pipeline']}{overrides}"


def _figure(path: Path, caption: str) -> str:
    inside = base64.b64encode(path.read_bytes()).decode()
    about = f"{path.parent.name.partition('@')[0]}: {caption or path.stem}"
    picture = f"<img src='data:image/png;base64,{inside}' alt='{_text(about)}'>"
    return f"<figure>{picture}<figcaption>{_text(about)}</figcaption></figure>"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{_text(title)}</th>" for title in head)
    rows = ("".join(f"<td{_kind(cell)}>{_text(cell)}</td>" for cell in line) for line in lines)
    kind = "wide" if len(head) > 3 else "wide free"
    return f"<div class='{kind}'><table><tr>{titles}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table></div>"


def _kind(cell: str) -> str:
    return " class='number'" if cell[:1].isdigit() and len(cell) < 16 else ""


def _percent(fraction: float | None) -> str:
    return "none left" if fraction is None else f"{100 * fraction:.1f}"


def _spread(mean: float | None, deviation: float | None) -> str:
    return "" if mean is None or deviation is None else f"{100 * mean:.1f} ± {100 * deviation:.1f}"


def _indented(text: str) -> str:
    return json.dumps(json.loads(text), indent=2, sort_keys=True)


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
