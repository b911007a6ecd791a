"""The model zoo: `create` by name, `load` from any file of weights, `inspect` and `convert` such files.

The four doors open on first use, so that importing vit.models.vit does not make every stage depend on every format.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vit.models.variants import create
    from vit.models.weights import convert, inspect, load

__all__ = ["convert", "create", "inspect", "load"]

_HOMES = {"create": "variants", "load": "weights", "inspect": "weights", "convert": "weights"}


def __getattr__(name: str) -> Any:
    """The function of that name, its module imported now (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
