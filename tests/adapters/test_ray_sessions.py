"""What ended Ray clusters leave in the temporary directory."""

import os
from pathlib import Path

import pytest

from flows.adapters import ray_sessions

ENDED = 2**22 - 3  # no process has this number


def test_the_newest_of_the_ended_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    home = ray_sessions.directory()
    ours = home / f"session_2026-01-01_00-00-00_000001_{os.getpid()}"
    others = [home / f"session_2026-01-0{day}_00-00-00_000001_{ENDED}" for day in range(2, 8)]
    for path in (ours, *others, home / "something_else"):
        (path / "logs").mkdir(parents=True)
    (home / "session_latest").symlink_to(others[0])
    ray_sessions.remove_old()
    left = {path.name for path in home.iterdir()}
    assert left == {path.name for path in (ours, *others[-ray_sessions.KEPT :])} | {"something_else", "session_latest"}


def test_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    ray_sessions.remove_old()
    assert not list(tmp_path.iterdir())
