"""Whether the data that prepare reads changed since: what makes scheduled retraining start, or end in seconds.

DVC watches files of the checkout; images elsewhere are listed here (names, sizes, in S3 ETags), never read. What
prepare saw is in its output; when local files were written is kept beside it: a copy must not differ by that.
"""

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.adapters.listing import Listing, listing
from flows.stages import output
from flows.stages.corpora import absolute
from vit.data.store import StoreUnavailable

if TYPE_CHECKING:
    from flows.stages.prepare import PrepareConfig

SOURCE = "source.json"  # in the output of prepare
logger = logging.getLogger("vitflow.arrivals")


def places(config: "PrepareConfig") -> dict[str, str]:
    """Which fields of the config name places with data, and where those are."""
    named = {"location": config.location, "classes": config.classes, "tasks": config.tasks}
    if config.source == "table" and config.location:  # its images lie beside it
        named["location"] = config.location.rpartition("/")[0] or "."
    if config.downstream is not None:
        named["downstream.location"] = config.downstream.location
    return {field: absolute(place) for field, place in named.items() if place}


def look(config: "PrepareConfig") -> dict[str, Listing]:
    """What lies at each place now. A place that cannot be listed is absent: who reads it says what is wrong."""
    found: dict[str, Listing] = {}
    for field, place in places(config).items():
        with contextlib.suppress(OSError, StoreUnavailable):
            found[field] = listing(place)
    return found


def write(found: Mapping[str, Listing], out: Path) -> None:
    """Leave what prepare is about to read in its output; the same for a copy of the data elsewhere."""
    output.write_json(out / SOURCE, {field: one.told() for field, one in found.items()})


def moments(config: "PrepareConfig") -> dict[str, str]:
    """For each place on this machine, what changes whenever a file there is written."""
    return {field: listing(place).touched for field, place in places(config).items() if Path(place).exists()}


def remember(moments: Mapping[str, str], out: Path) -> None:
    """Keep the moments of before prepare read, beside its output."""
    if moments:
        output.write_json(_beside(out), dict(moments))


def changes(config: "PrepareConfig", out: Path) -> tuple[str, ...]:
    """What differs from what prepare saw, in words; nothing if a place does not answer, which is logged."""
    if not places(config):
        return ()
    before: dict[str, Any] = json.loads((out / SOURCE).read_text())
    touched: dict[str, str] = json.loads(_beside(out).read_text()) if _beside(out).is_file() else {}
    reasons: list[str] = []
    for field, place in places(config).items():
        said = f"prepare.{field} {place}"
        try:
            now = listing(place)
        except (OSError, StoreUnavailable) as error:
            logger.warning("%s cannot be listed, so what was read last counts: %s", said, error)
            continue
        told = now.told()
        if told != before.get(field):
            reasons.append(f"{said} has {now}, others than when it was read")
        elif now.touched != touched.get(field, now.touched):
            reasons.append(f"{said} has files that were written again since it was read")
        else:
            logger.info("%s has %s, as when it was read", said, now)
    return tuple(reasons)


def _beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.touched.json")
