"""Where local Ray clusters keep their logs and sockets. Ray leaves a directory behind for each; here most of them go.

Of clusters that have ended the newest few stay, for whoever wants to read what happened.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path

KEPT = 3  # of those that have ended


def directory() -> Path:
    """Ours alone, below RAY_TMPDIR, else /tmp: the paths of Ray's sockets are at the system's limit of 107 bytes."""
    return Path(os.environ.get("RAY_TMPDIR") or "/tmp") / f"vitflow-ray-{os.getuid()}"


def remove_old() -> None:
    """Remove what ended clusters have left, but for the newest."""
    ended = sorted(path for path in directory().glob("session_*") if not path.is_symlink() and not _runs(path))
    for path in ended[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)  # somebody else may be at it, too


def _runs(session: Path) -> bool:
    """Whether the process that started a cluster is there: its number ends the name of the session."""
    found = re.search(r"_(\d+)$", session.name)
    if found is None:
        return True
    with contextlib.suppress(PermissionError):
        try:
            os.kill(int(found[1]), 0)
        except ProcessLookupError:
            return False
    return True
