"""MATLAB files, in which three of the data sets keep their labels."""

import io
from collections.abc import Callable
from typing import Any

import scipy.io

from vit.data.datasets.archives import BadArchive, Member

_loadmat: Callable[..., dict[str, Any]] = vars(scipy.io)["loadmat"]  # scipy has no types


def load(member: Member) -> dict[str, Any]:
    """The variables of a .mat file (version 5) as NumPy arrays without axes of length one; raises BadArchive."""
    try:
        return _loadmat(io.BytesIO(member.read()), squeeze_me=True)
    except BadArchive:
        raise
    except Exception as error:  # on damaged bytes scipy may raise anything
        raise BadArchive(
            f"{member.name} in {member.path} is no readable MATLAB file ({error}); get it again"
        ) from error
