"""Small networks for tests that need some network, whatever it is."""

from typing import Any

from vit.models.config import ViTConfig
from vit.models.variants import configure


def tiny_vit(*, resolution: int, patch_size: int, **changes: Any) -> ViTConfig:
    """The authors' numerics at a size that trains in milliseconds; `changes` are fields of ViTConfig."""
    sizes = {"width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 8}
    config = configure(f"ViT-Ti/{patch_size}", resolution, **{**sizes, **changes})
    assert isinstance(config, ViTConfig)
    return config
