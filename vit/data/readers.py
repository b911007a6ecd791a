"""How the images of a source are read, as a few bytes each: what millions of records would otherwise keep in memory.

What records have in common (a store, a table in memory) is kept once; the rest of a reader is pickled. Only this
process reads it back, so nothing foreign is ever unpickled.
"""

import functools
import io
import pickle
import types
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, cast

Reader = Callable[[], bytes]
_PLAIN = frozenset({str, bytes, int, float, bool, types.NoneType, tuple, functools.partial, type, types.MethodType})
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


class Readers:
    """Readers to bytes and back; in this process only."""

    def __init__(self) -> None:
        self._shared: dict[int, Any] = {}

    def pack(self, reader: Reader) -> bytes:
        buffer = io.BytesIO()
        _Pickler(buffer, self._shared).dump(reader)
        return buffer.getvalue()

    def unpack(self, data: bytes) -> Reader:
        return _Unpickler(io.BytesIO(data), self._shared).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: dict[int, Any]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._shared = shared

    def persistent_id(self, obj: Any) -> int | None:
        """The number of an object that is kept; None for what is pickled."""
        kind = cast(type[Any], type(obj))
        if kind is dict and not obj:  # the keywords of most partials
            return None
        if _is_light(kind) and not (issubclass(kind, _FUNCTIONS) and "<" in obj.__qualname__):
            return None
        self._shared[id(obj)] = obj
        return id(obj)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: dict[int, Any]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, pid: Any) -> Any:
        return self._shared[pid]


@functools.cache
def _is_light(kind: type[Any]) -> bool:
    """Paths, functions and frozen values are; what has its own idea of pickling (a store in S3) or changes is not."""
    if kind in _PLAIN or issubclass(kind, (*_FUNCTIONS, Path, PurePosixPath)):
        return True
    parameters: Any = getattr(kind, "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen) and kind.__reduce__ is object.__reduce__
