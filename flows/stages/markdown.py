"""Names of other people's making in Markdown."""

import re


def plain(text: str) -> str:
    """Text in a sentence or a cell: nothing of it is a link, a picture, code, a new line or cell, or HTML."""
    return re.sub(r"([\\|\[\]`])", r"\\\1", text).replace("<", "&lt;").replace("\n", " ")
