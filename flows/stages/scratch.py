"""Where a running stage keeps its checkpoints: outside its output, under the fingerprint of config and inputs.

The same work finds the same directory after any interruption, through either door; it is removed when the
stage has succeeded. On a cluster the checkout, and so this directory, must be on storage that all nodes share.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.stages import output


@contextlib.contextmanager
def directory(out: Path, stage: str, config: Any, inputs: Mapping[str, Path]) -> Iterator[tuple[Path, str]]:
    """Yield (scratch directory, fingerprint); the directory is deleted when the block succeeds."""
    fingerprint = output.fingerprint(stage, config, inputs)
    path = out.parent / ".scratch" / f"{stage}-{fingerprint}"
    path.mkdir(parents=True, exist_ok=True)
    yield path.resolve(), fingerprint
    # Out of sight in one step: killed half-way through deleting, the next run would find broken checkpoints.
    done = path.rename(path.with_name(f".{path.name}.done-{os.getpid()}"))
    shutil.rmtree(done)
    with contextlib.suppress(OSError):  # another stage may be at work there
        path.parent.rmdir()
