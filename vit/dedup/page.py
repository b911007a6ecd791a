"""report.html: everything that was found, for a person to judge; one file, no script or picture from elsewhere."""

import base64
import html
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vit.dedup.aligned import Shown
from vit.dedup.page_style import SCRIPT, STYLE
from vit.dedup.report import Located, doubt
from vit.dedup.vetoes import Veto

SHOWN, PER_KIND = 240, 12  # pairs with pictures: in all, and at least of each benchmark and tier
LISTED = 50  # rows of a list; the tables on disk have them all
TITLE = "De-duplication report"


class Content(NamedTuple):
    """What the page says."""

    summary: Mapping[str, Any]  # report.json
    benchmarks: Mapping[str, Mapping[str, Any]]  # report.by_benchmark
    shown: Sequence[Shown]
    num_pairs: int
    vetoed: Sequence[tuple[Located, Veto]]
    within: Mapping[str, Sequence[Sequence[str]]]  # benchmark: groups
    notes: Mapping[tuple[str, str], str]
    unreadable: Sequence[tuple[str, str, str, str]]
    groups: Sequence[Sequence[str]]  # duplicates inside the corpus, the kept image first
    curve: str = ""  # an SVG


def choose(pairs: Sequence[Located]) -> list[Located]:
    """The pairs to show: a few of each benchmark and tier, then the most doubtful of all; sorted by doubt."""
    ordered = sorted(pairs, key=lambda one: doubt(one.pair))
    counts: Counter[tuple[str, str]] = Counter()
    chosen: list[Located] = []
    rest: list[Located] = []
    for one in ordered:
        kind = one.pair.benchmark, one.pair.tier
        counts[kind] += 1
        (chosen if counts[kind] <= PER_KIND else rest).append(one)
    chosen += rest[: max(0, SHOWN - len(chosen))]
    return sorted(chosen, key=lambda one: doubt(one.pair))


def render(content: Content) -> str:
    """The page as text."""
    parts = [
        f"<h1>{TITLE}</h1>",
        _tiles(content),
        _table(content),
        _pairs(content),
        _curve(content),
        _inside(content),
        _notes(content),
        _vetoed(content.vetoed),
        _unreadable(content.unreadable),
        _settings(content.summary),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{TITLE}</title><style>{STYLE}</style></head>\n<body><main>"
        + "\n".join(part for part in parts if part)
        + f"</main><script>{SCRIPT}</script></body></html>\n"
    )


def _tiles(content: Content) -> str:
    summary = content.summary
    tests = sum(benchmark["test_images"] for benchmark in content.benchmarks.values())
    leaked = sum(benchmark["with_duplicate"] for benchmark in content.benchmarks.values())
    tiles = [
        (f"{summary['images_in']:,}", "training images looked at"),
        (f"{tests:,}", f"test images of {len(content.benchmarks)} benchmark{_s(len(content.benchmarks))}"),
        (f"{leaked:,}", "test images with a duplicate in the training set"),
        (f"{summary['removed']:,}", "training images that show a test image"),
        (f"{len(content.vetoed):,}", "pairs vetoed by a person"),
        (f"{len(content.unreadable):,}", "images that could not be compared"),
    ]
    return (
        '<div class="tiles">' + "".join(f"<div><b>{n}</b><span>{_e(what)}</span></div>" for n, what in tiles) + "</div>"
    )


def _table(content: Content) -> str:
    has_published = any(benchmark["published"] for benchmark in content.benchmarks.values())
    head = ["benchmark", "test images", "with a duplicate", "share", "pairs", "duplicates inside", "compared"]
    head += ["BiT: JFT", "ImageNet-21k", "ILSVRC train"] if has_published else []
    rows: list[list[str]] = []
    for name, counts in content.benchmarks.items():
        total, found, stored = counts["test_images"], counts["with_duplicate"], counts["compared_by_stored_codes"]
        how = f"{stored:,} by stored codes" if stored else "in full"
        row = [_e(name), f"{total:,}", f"{found:,}", f"{found / total:.2%}", f"{counts['pairs']:,}"]
        row += ["–" if counts["within"] is None else f"{counts['within']:,}", how]
        published = counts["published"]
        keys = ("jft", "imagenet21k", "ilsvrc_train") if has_published else ()
        row += [f"{published[key]:,}" if published else "–" for key in keys]
        rows.append(row)
    note = (
        "<p class=note>The last columns are BiT's own counts for the set of the same name against their three "
        "training sets (arXiv 1912.11370, Table 7).</p>"
        if has_published
        else ""
    )
    return (
        "<h2>Test images with a near-duplicate upstream</h2>"
        + _grid(head, rows)
        + note
        + "<p class=note>“Duplicates inside” counts test images that repeat another one of the same benchmark. “By "
        "stored codes” means that a benchmark was added later and compared with the stored codes of whole training "
        "images: training images that show more than the test image does are missed; <code>--rescan</code> decodes "
        "everything again.</p>"
    )


def _pairs(content: Content) -> str:
    if not content.shown:
        return "<h2>Pairs</h2><p>No training image shows a test image.</p>"
    benchmarks = sorted({one.pair.benchmark for one in content.shown})
    tiers = sorted({one.pair.tier for one in content.shown})
    more = content.num_pairs - len(content.shown)
    rest = f" {more:,} less doubtful ones are in pairs.parquet only." if more else ""
    return (
        "<h2>Pairs, most doubtful first</h2>"
        "<p class=note>Left the training image, right the test image, cut and turned as they matched. Tick a pair that "
        "is no copy: a line for the veto file appears below." + rest + "</p>"
        '<div class="filters">'
        + _choice("benchmark", benchmarks)
        + _choice("tier", tiers)
        + '<span id="count"></span></div><div class="cards">'
        + "\n".join(_card(number, one) for number, one in enumerate(content.shown))
        + '</div><div id="vetoes" hidden><h3>Lines for the veto file (CSV)</h3>'
        + '<textarea readonly rows="6" aria-label="lines for the veto file"></textarea></div>'
    )


def _card(number: int, one: Shown) -> str:
    pair = one.pair
    how = [pair.tier, f"distance {pair.distance}", f"score {pair.score:.2f}"]
    how += [] if pair.window == "full" else [pair.window]
    how += [] if pair.flip == "identity" else [pair.flip]
    how += ["refined"] if pair.refined else []
    data = "".join(
        f' data-{name}="{_e(getattr(pair, name))}"' for name in ("benchmark", "tier", "test", "train", "corpus")
    )
    return (
        f'<figure class="card"{data}><div class="two">'
        f"{_image(one.train, 'training image')}{_image(one.test, 'test image')}</div>"
        f"<figcaption><p class=how>{_e(' · '.join(how))}</p>"
        f"<dl><dt>train</dt><dd>{_e(pair.corpus)} / {_e(pair.train)}</dd>"
        f"<dt>test</dt><dd>{_e(pair.benchmark)} / {_e(pair.test)}</dd></dl>"
        f'<label><input type="checkbox" id="veto-{number}"> two pictures, no copy</label></figcaption></figure>'
    )


def _curve(content: Content) -> str:
    return f"<h2>Calibration of the embedding</h2><div class=curve>{content.curve}</div>" if content.curve else ""


def _inside(content: Content) -> str:
    parts: list[str] = []
    for name, groups in content.within.items():
        parts += [f"<h3>{_e(name)}: {len(groups):,} group{_s(len(groups))}</h3>{_groups(groups)}"] if groups else []
    if content.groups:
        parts.append(
            f"<h3>training set: {len(content.groups):,} groups, the kept image first</h3>{_groups(content.groups)}"
        )
    return "<h2>Duplicates inside a set</h2>" + "".join(parts) if parts else ""


def _groups(groups: Sequence[Sequence[str]]) -> str:
    items = [f"<li>{_e(' = '.join(group[:6]))}{' …' if len(group) > 6 else ''}</li>" for group in groups[:LISTED]]
    return f"<ul class=long>{''.join(items)}</ul>{_more(len(groups))}"


def _notes(content: Content) -> str:
    if not content.notes:
        return ""
    kinds: dict[tuple[str, str], list[str]] = {}
    for (benchmark, key), note in sorted(content.notes.items()):
        kinds.setdefault((benchmark, note), []).append(key)
    rows = [
        [_e(benchmark), _e(note), f"{len(keys):,}", _e(", ".join(keys[:3])) + (" …" if len(keys) > 3 else "")]
        for (benchmark, note), keys in kinds.items()
    ]
    return (
        "<h2>Flat and templated images</h2><p class=note>Images without structure, or with a frame that many share "
        "(scans, charts, masks), would all match each other; they are matched only as the second column says.</p>"
        + _grid(["benchmark", "why", "images", "for example"], rows[:LISTED])
        + _more(len(rows))
    )


def _vetoed(vetoed: Sequence[tuple[Located, Veto]]) -> str:
    if not vetoed:
        return ""
    rows = [
        [_e(one.pair.benchmark), _e(one.pair.test), _e(one.pair.train), _e(veto.who), _e(veto.why)]
        for one, veto in vetoed[:LISTED]
    ]
    return (
        "<h2>Vetoed pairs</h2><p class=note>Found, but reviewed by a person and not counted anywhere above.</p>"
        + _grid(["benchmark", "test", "train", "who", "why"], rows)
        + _more(len(vetoed))
    )


def _unreadable(unreadable: Sequence[tuple[str, str, str, str]]) -> str:
    if not unreadable:
        return ""
    rows = [[_e(side), _e(f"{root} / {key}"), _e(reason)] for side, root, key, reason in unreadable[:LISTED]]
    return (
        "<h2>Images that could not be compared</h2><p class=note>They are in none of the lists; all of them are in "
        "unreadable.parquet.</p>" + _grid(["side", "image", "reason"], rows) + _more(len(unreadable))
    )


def _settings(summary: Mapping[str, Any]) -> str:
    text = json.dumps(summary["settings"], indent=2, sort_keys=True)
    return (
        "<h2>Settings and versions</h2>"
        "<p class=note>EXIF rotation is not applied: all eight flips and turns are compared.</p>"
        f"<details><summary>tier {_e(str(summary['tier']))}</summary><pre>{_e(text)}</pre></details>"
    )


def _grid(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are HTML, each with the name of its column for narrow screens."""
    names = list(head)
    body = "".join(
        "<tr>"
        + "".join(f'<td data-name="{_e(name)}">{cell}</td>' for name, cell in zip(names, row, strict=True))
        + "</tr>"
        for row in rows
    )
    heading = "".join(f"<th>{_e(name)}</th>" for name in names)
    return f"<table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table>"


def _choice(name: str, values: Sequence[str]) -> str:
    options = "".join(f'<option value="{_e(value)}">{_e(value)}</option>' for value in values)
    return f'<label>{_e(name)} <select id="{_e(name)}"><option value="">all</option>{options}</select></label>'


def _image(data: bytes, alt: str) -> str:
    return f'<img alt="{_e(alt)}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'


def _more(count: int) -> str:
    return f"<p class=note>… and {count - LISTED:,} more.</p>" if count > LISTED else ""


def _e(text: str) -> str:
    return html.escape(text, quote=True)


def _s(count: int) -> str:
    return "" if count == 1 else "s"
