"""The state refuses to mix results of different settings, and says what differs and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from vit.dedup.state import OtherSettings, State

MADE: dict[str, Any] = {
    "codes": {"name": "dct", "bits": 256},
    "tier": {"name": "fast", "radius": 31, "windows": [["full", 0.0, 1.0]] * 20},
    "versions": {"numpy": "2.3.0", "pillow": "12.0.0"},
}


def refusal(directory: Path, changed: dict[str, Any]) -> str:
    """The middle of the sentence: what differs."""
    with State(directory, MADE):
        pass
    with pytest.raises(OtherSettings) as refused:
        State(directory, MADE | changed)
    start, end = f"{directory} was made with other settings, which do not mix: ", "; give another --out, or delete "
    text = str(refused.value)
    assert text.startswith(start) and text.endswith(f"{end}{directory} to start afresh")
    return text.removeprefix(start).split(end)[0]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"versions": {"numpy": "2.3.1", "pillow": "12.0.0"}}, 'versions.numpy was "2.3.0", now it is "2.3.1"'),
        ({"tier": MADE["tier"] | {"radius": 30}}, "tier.radius was 31, now it is 30"),
        (
            {"tier": {"name": "thorough", "radius": 75, "windows": []}},
            'tier.name was "fast", now it is "thorough"',
        ),
        ({"embedding": {"resolution": 224}}, 'embedding was not set, now it is {"resolution": 224}'),
        (
            {"codes": {"name": "dct", "bits": 64}, "versions": {"numpy": "2.3.0"}},
            'codes.bits was 256, now it is 64; versions.pillow was "12.0.0", now it is not set',
        ),
    ],
)
def test_only_what_differs_is_named(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    assert refusal(tmp_path, changed) == told


def test_long_values_and_many_of_them_are_cut_short(tmp_path: Path) -> None:
    told = refusal(tmp_path, {"tier": {"name": "fast", "width": 1, "height": 2, "depth": 3}})
    assert told.startswith("tier.depth was not set, now it is 3; tier.height was not set, now it is 2; tier.radius")
    assert told.endswith("now it is not set; 2 more differ")
    long = refusal(tmp_path, {"tier": MADE["tier"] | {"windows": []}})
    assert len(long) < 120 and long.endswith("…, now it is []")


def test_the_same_settings_go_on_and_a_refusal_lets_go_of_the_lock(tmp_path: Path) -> None:
    refusal(tmp_path, {"format": 2})
    with State(tmp_path, MADE) as state:
        assert state.lines == []
