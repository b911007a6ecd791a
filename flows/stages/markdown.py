"""Names of other people's making in Markdown."""

import re


def plain(text: str) -> str:
    """Text in a sentence or a cell: nothing of it is a link, a picture, code, a new line or cell, or HTML."""
    return re.sub(r"([\\|\[\]`])", r"\\\1", text).replace("<", "&lt;").replace("\n", " ")


def code(text: str) -> str:
    """Text as code, on one line: nothing ends it but its own end (CommonMark's longer fences)."""
    text = text.replace("\n", " ")
    longest = max(map(len, re.findall("`+", text)), default=0)
    return f"`{text}`" if not longest else f"{'`' * (longest + 1)} {text} {'`' * (longest + 1)}"
