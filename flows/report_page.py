"""A report as one HTML page that opens without a network: for someone who was not there."""

import base64
import html
import re
from collections.abc import Iterable, Sequence

from flows.report_sections import Picture, Section

# A number, with a percent sign or a standard deviation, or the dash of one that is missing.
NUMBER = re.compile(r"[+-]?\d[\d,.]*(e[+-]\d+)?( %| ± [\d.]+)?|–")
STYLE = """
:root{--ink:#1c2430;--soft:#5c6675;--line:#d9dee6;--back:#f6f7f9}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.45 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}
h2{font-size:1.15rem;margin:2rem 0 .5rem}
summary{cursor:pointer;margin:2rem 0 .5rem}
p,.note{color:var(--soft);max-width:75ch;overflow-wrap:anywhere}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;background:#fff;border:1px solid var(--line)}
th,td{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
.free td:not(:first-child){overflow-wrap:anywhere}
th{font-size:.8rem;color:var(--soft)}
.number{text-align:right;font-variant-numeric:tabular-nums}
td.number{white-space:nowrap}
figure{margin:.8rem 0;background:#fff;border:1px solid var(--line);border-radius:8px;padding:.6rem}
figure img{max-width:100%;height:auto;display:block;margin:auto}
figcaption{color:var(--soft);font-size:.875rem;margin-top:.4rem}
@media (max-width:600px){table{font-size:.8rem}th,td{padding:.3rem .35rem}}
pre{background:#fff;border:1px solid var(--line);padding:.6rem;overflow-x:auto;font-size:.8rem}
"""


def page(title: str, told: Iterable[Section]) -> str:
    """All sections below one heading; pictures are put inside the page, and names are text, whatever they contain."""
    body = "".join(_section(section) for section in told)
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{_text(title)}</title>"
    main = f"<main><h1>{_text(title)}</h1>{body}</main>"
    return f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style></head><body>{main}</body></html>"


def _section(section: Section) -> str:
    parts = [f"<p>{_text(sentence)}</p>" for sentence in section.sentences]
    if section.lines:
        parts.append(_table(section.head, section.lines))
    if section.lines and section.note:
        parts.append(f"<p class='note'>{_text(section.note)}</p>")
    parts += [_figure(picture) for picture in section.pictures]
    if section.code:
        parts.append(f"<pre>{_text(section.code)}</pre>")
    title, inside = _text(section.title), "".join(parts)
    if section.folded:
        return f"<details><summary>{title}</summary>{inside}</details>"
    return f"<section><h2>{title}</h2>{inside}</section>"


def _figure(picture: Picture) -> str:
    inside, about = base64.b64encode(picture.png).decode(), _text(picture.caption)
    return f"<figure><img src='data:image/png;base64,{inside}' alt='{about}'><figcaption>{about}</figcaption></figure>"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    columns = zip(*lines, strict=True)
    numeric = [all(NUMBER.fullmatch(cell) for cell in column if cell) for column in columns]
    aligned = [" class='number'" if right else "" for right in numeric]
    titles = "".join(f"<th{kind}>{_text(title)}</th>" for kind, title in zip(aligned, head, strict=True))
    titles = f"<tr>{titles}</tr>" if any(head) else ""
    rows = ("".join(f"<td{_kind(cell)}>{_text(cell)}</td>" for cell in line) for line in lines)
    kind = "wide" if len(head) > 3 else "wide free"
    return f"<div class='{kind}'><table>{titles}{''.join(f'<tr>{row}</tr>' for row in rows)}</table></div>"


def _kind(cell: str) -> str:
    return " class='number'" if NUMBER.fullmatch(cell) else ""


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
