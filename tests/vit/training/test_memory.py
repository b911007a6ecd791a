"""What is said of a training that does not fit into memory."""

import numpy as np
import pytest
import torch

from vit.training.memory import DoesNotFit, naming_what_does_not_fit


def gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore\n")


def torch_alone() -> None:
    torch.empty(2**55)


def arrays() -> None:
    np.empty(2**55)


def threads() -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("work", "asked"), [(gpu, "20.00 MiB"), (torch_alone, "allocate"), (arrays, "PiB"), (threads, "thread")]
)
def test_what_needs_less_is_named(work: object, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(work)
    with pytest.raises(DoesNotFit) as told, naming_what_does_not_fit(48, 224):
        work()
    text = str(told.value)
    assert text.startswith("a pass over 48 images of 224 x 224 pixels does not fit into the memory of this machine")
    assert asked in text and "\n" not in text
    assert text.endswith("with VITFLOW_MICRO_BATCH=24 or VITFLOW_RECOMPUTE=1 or more workers")
    monkeypatch.setenv("VITFLOW_MICRO_BATCH", "1")
    monkeypatch.setenv("VITFLOW_RECOMPUTE", "1")
    with (
        pytest.raises(DoesNotFit, match=r"a pass over 1 images .* less with more workers$"),
        naming_what_does_not_fit(48, 224),
    ):
        work()


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), naming_what_does_not_fit(48, 224):
        raise RuntimeError("shapes differ")
