"""The one function that we call; scikit-image has no types."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

def rgb2hed(rgb: NDArray[Any]) -> NDArray[np.floating[Any]]: ...
def __getattr__(name: str) -> Any: ...
