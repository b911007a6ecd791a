"""Two networks side by side: random weights in which every number shows, what every block gives, and how far apart."""

import math
import re

import torch
from torch import Tensor, nn

from vit.models.resnet import ResNetConfig
from vit.models.vit import ViTConfig

TOLERANCE = 1e-5  # of the largest number compared, or of 1
BLOCK = {
    "ours": r"(.+\.)?blocks\.\d+",
    "timm": r"(.+\.)?blocks\.\d+",
    "vit": r"vit\.layers\.\d+",
    "bit": r"bit\.encoder\.stages\.\d+\.layers\.\d+",
}


def randomised(model: nn.Module) -> nn.Module:
    """Random everywhere, and small where an eps counts: in what the first norms and weight standardisation see."""
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter.data)
        if parameter.ndim == 1:
            parameter.data = 0.2 * noise + ("norm" in name and name.endswith("weight"))
        else:
            parameter.data = noise / math.sqrt(parameter[0].numel())
        if re.search(r"pos_embed|cls_token|embeddings|patch_embed\.proj", name):
            parameter.data *= 0.01
        if re.search(r"conv\d?\.weight|convolution\.weight", name):
            parameter.data *= 0.01
        if ".norm3." in name:  # branches as faint as a trained ResNet's: 50 loud ones would amplify rounding to 1e-4
            parameter.data *= 0.1
    return model.eval()


def run(model: nn.Module, images: Tensor, peer: str) -> list[Tensor]:
    """What every block gives, and the logits."""
    found: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: found.append(output))
        for name, module in model.named_modules()
        if re.fullmatch(BLOCK[peer], name)
    ]
    with torch.inference_mode():
        logits = model(images)
    for hook in hooks:
        hook.remove()
    return [*found, logits if isinstance(logits, Tensor) else logits.logits]


def num_blocks(config: ViTConfig | ResNetConfig) -> int:
    """How many there are to compare: encoder blocks and a ResNet's units."""
    if isinstance(config, ResNetConfig):
        return sum(config.layers)
    return config.depth + (sum(config.stem.layers) if config.stem else 0)


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs) > 1
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert mine.shape == other.shape, index
        error = (mine - other).abs().max() / other.abs().max().clamp(min=1)
        assert error <= TOLERANCE, f"output {index} of {len(ours)}: {error:.1e}"


def images_for(config: ViTConfig | ResNetConfig, side: int = 0) -> Tensor:
    """Faint images: then the root's GroupNorm shows its eps, too."""
    side = side or config.resolution
    stem = config if isinstance(config, ResNetConfig) else config.stem
    return torch.randn(2, 3, side, side) * (0.003 if stem else 1)
