"""Inner loops as machine code: numba without the global lock, cached on disk beside the source.

Fast-math stays off and decisions rest on integers, or on floats that hold integers exactly, so that the same input
gives the same result on every machine, whatever vector instructions it has.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import types
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function of arrays and numbers at its first call."""
    return cast(Function, cast(Any, numba).njit(cache=True, nogil=True, error_model="numpy")(function))


def compiled_exact_sums(function: Function) -> Function:
    """The same for sums of integers that floats hold exactly: they may be added in any order, so in vectors."""
    options = {"contract", "reassoc", "nsz"}
    return cast(
        Function, cast(Any, numba).njit(cache=True, nogil=True, error_model="numpy", fastmath=options)(function)
    )


def _popcount(_context: Any, word: Any) -> Any:
    """The processor's instruction, by LLVM's name for it; vectorised where there is AVX-512 VPOPCNTDQ."""

    def build(_codegen: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), build


popcount: Callable[[Any], Any] = cast(Any, intrinsic)(_popcount)  # number of set bits of a uint64
