from typing import Any

from skimage import color as color

def __getattr__(name: str) -> Any: ...
