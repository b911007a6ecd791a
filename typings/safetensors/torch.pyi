"""safetensors' own signatures say `PathLike` without its parameter."""

from pathlib import Path
from typing import Any

from torch import Tensor

def load_file(filename: Path, device: str | int = "cpu") -> dict[str, Tensor]: ...
def save_file(tensors: dict[str, Tensor], filename: Path, metadata: dict[str, str] | None = None) -> None: ...
def __getattr__(name: str) -> Any: ...
