"""Results of the pieces of a stage's work, a file for each: what is done is not done again.

The files lie in the stage's scratch directory, so that they belong to this config and these inputs alone, and go when
the stage has succeeded. Each is written whole or not at all and carries its own SHA-256.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TypeVar

import pydantic

logger = logging.getLogger("vitflow.results")
Result = TypeVar("Result")


def save(path: Path, result: object) -> None:
    """Write a dataclass; its fields are numbers, texts, or dataclasses, mappings and sequences of such."""
    text = pydantic.TypeAdapter(type(result)).dump_json(result).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.writing-{os.getpid()}")
    with work.open("w") as file:
        json.dump({"sha256": _sha256(text), "result": text}, file)
        file.flush()
        os.fsync(file.fileno())
    work.replace(path)


def load(path: Path, kind: type[Result]) -> Result | None:
    """What `save` wrote; None if it is not there, or damaged, which a warning says."""
    try:
        document = json.loads(path.read_text())
        text = str(document["result"])
        if document["sha256"] != _sha256(text):
            raise ValueError("its SHA-256 differs")
        return pydantic.TypeAdapter(kind).validate_json(text)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:  # of JSON, pydantic and text that is no UTF-8, too
        reason = str(error).splitlines()[0]
        logger.warning("the result in %s cannot be read (%s); that piece of work is done again", path, reason)
        return None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
