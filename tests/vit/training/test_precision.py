"""bfloat16 is the default only where it is fast."""

from typing import Any

import pytest
import torch

from vit.training.precision import default_precision

ICE_LAKE = {"architecture": "x86_64", "avx512_f": True, "avx512_vnni": True, "avx512_bf16": False, "amx_bf16": False}


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        (ICE_LAKE, "float32"),
        (ICE_LAKE | {"avx512_bf16": True}, "bfloat16"),
        (ICE_LAKE | {"amx_bf16": True}, "bfloat16"),
        (ICE_LAKE | {"amx_tile": True, "amx_int8": True}, "float32"),
        ({"architecture": "aarch64", "neon": True, "bf16": False}, "float32"),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, "bfloat16"),
        ({}, "float32"),
    ],
)
def test_a_cpu_that_emulates_bfloat16_gets_float32(
    capabilities: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert default_precision(torch.device("cpu")) == precision


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_a_gpu_needs_bfloat16_tensor_cores(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    assert default_precision(torch.device("cuda", 1)) == precision
    assert asked == [torch.device("cuda", 1)]


def test_the_capabilities_have_the_names_we_ask_for() -> None:
    capabilities = torch.cpu.get_capabilities()
    known = {"x86_64": {"avx512_bf16", "amx_bf16"}, "aarch64": {"bf16"}}.get(str(capabilities["architecture"]), set())
    assert known <= set(capabilities)


def test_another_device_gets_float32() -> None:
    assert default_precision(torch.device("meta")) == "float32"
