"""Every family through torch.compile as it is used: one graph of Inductor's, a training step and a forward pass."""

import dataclasses
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.vit.models.toy_vit import STEM, randomised
from vit.models.resnet import ResNet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor compiles with g++, which is not installed"),
]

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "ViT": lambda: randomised(depth=2),
    "hybrid": lambda: randomised(depth=1, patch_size=1, stem=dataclasses.replace(STEM, layers=(1,))),
    "ResNet": lambda: resnet(),
}


def resnet() -> nn.Module:
    torch.manual_seed(0)
    config = dataclasses.replace(STEM, layers=(1,), flavour="v2", standardize_eps=1e-10, standardize_eps_on="variance")
    model = ResNet(config, 5)
    nn.init.normal_(model.head.fc.weight, std=0.1)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_inductor_gives_the_eager_logits_and_gradients(family: str) -> None:
    model, images = FAMILIES[family](), torch.randn(2, 3, 32, 32)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    found: list[list[Tensor]] = []
    for network in (model, compiled):
        model.train().zero_grad()
        trained = network(images)
        trained.square().mean().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        model.eval()
        with torch.inference_mode():
            found.append([trained.detach(), network(images), *gradients])
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)
