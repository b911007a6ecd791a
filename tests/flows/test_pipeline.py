"""The flow hands every stage what INPUTS says, in order."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows import pipeline
from flows.stages.config import STAGES
from flows.stages.run import Run


def test_the_flow_wires_stages_as_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def stand_in(stage: str) -> Callable[..., Path]:
        def run_stage(run: Run, **inputs: Path) -> Path:
            assert inputs == run.inputs(stage)
            called.append(stage)
            return run.out(stage)

        return run_stage

    for stage in STAGES:
        monkeypatch.setattr(pipeline, stage, stand_in(stage))
    monkeypatch.setattr(pipeline.show, "summary", lambda run: None)
    pipeline.vit_pipeline.fn("mini", [])
    assert called == list(STAGES)
