"""The ResNets of BiT and of the hybrids: maths, sizes, names, initial values, and what training needs of them."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.vit.models.resnet_reference import Array, Reference
from vit.models.resnet import ResNet, ResNetConfig, initialise

torch.set_num_threads(1)

FLAVOURS = ("v1", "v2")


def config(flavour: str, layers: tuple[int, ...] = (2, 1), **changes: Any) -> ResNetConfig:
    values: dict[str, Any] = {"family": "resnet", "resolution": 32, "layers": layers, "width_factor": 1}
    eps = {"group_norm_eps": 1e-5, "standardize_eps": 1e-5, "standardize_eps_on": "variance"}
    return ResNetConfig(**(values | eps | {"flavour": flavour} | changes))


def trained(config: ResNetConfig, num_classes: int = 5) -> ResNet:
    """A network no parameter of which is at its initial value; float64."""
    torch.manual_seed(0)
    model = ResNet(config, num_classes).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def images(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def close(actual: Tensor, expected: Array) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("eps_on", ["variance", "std"])
@pytest.mark.parametrize(("group_norm_eps", "standardize_eps"), [(1e-6, 1e-10), (0.5, 1e-10), (1e-6, 0.1)])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_map_equals_the_maths(flavour: str, group_norm_eps: float, standardize_eps: float, eps_on: str) -> None:
    """The large values of eps make every place count where one is added."""
    eps = {"group_norm_eps": group_norm_eps, "standardize_eps": standardize_eps, "standardize_eps_on": eps_on}
    model = trained(config(flavour, **eps))
    seen: list[Tensor] = []
    blocks = [block for name, block in model.named_modules() if name.rpartition(".")[0].endswith("blocks")]
    for module in (model.stem, *blocks):
        module.register_forward_hook(lambda _module, _args, out: seen.append(out))
    for side in (32, 33, 47):
        seen.clear()
        x = images(side, side, batch=1 if side == 47 else 2)
        logits = model(x)
        *expected, last = Reference(model).maps(x.numpy())
        assert len(seen) == len(expected) == 1 + sum(model.config.layers)
        for actual, maths in zip(seen, expected, strict=True):
            close(actual, maths)
        close(logits, Reference(model).logits(last.mean(axis=(2, 3))))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_twice_as_wide_and_not_square(flavour: str) -> None:
    model = trained(config(flavour, (1, 1), width_factor=2))
    x = images(35, 18, batch=1)
    *_, last = Reference(model).maps(x.numpy())
    assert last.shape == (1, 1024, 5, 3)
    close(model.forward_features(x), last)
    close(model.features(x), last.mean(axis=(2, 3)))


def test_v2_pools_with_zeros_around_although_the_map_has_negative_values() -> None:
    model = trained(config("v2"))
    pooled = model.stem(images(32, 32))
    assert pooled[:, :, 0].min() >= 0 and pooled[:, :, :, 0].min() >= 0
    assert pooled[:, :, 1:, 1:].min() < 0


@pytest.mark.parametrize("layers", [(), (1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_size_is_halved_rounding_up(flavour: str, layers: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = ResNet(config(flavour, layers), 0)
        for height, width in ((1, 2), (31, 32), (33, 47), (223, 224), (225, 65)):
            rows, columns = -(-height // model.config.stride), -(-width // model.config.stride)
            out = model.forward_features(torch.empty(2, 3, height, width))
            assert out.shape == (2, model.config.num_features, rows, columns)


@pytest.mark.parametrize(
    ("layers", "stride", "channels"), [((), 4, 64), ((3, 4, 9), 16, 1024), ((3, 4, 6, 3), 32, 2048)]
)
def test_stride_and_channels_of_the_hybrids(layers: tuple[int, ...], stride: int, channels: int) -> None:
    """paper.md 1.7."""
    stem = config("v1", layers)
    assert (stem.stride, stem.num_features) == (stride, channels)


DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
COUNTS = [  # paper.md 1.6: depth, width factor, v2, v1
    (50, 1, 23_500_352, 23_508_032),
    (50, 2, 93_891_712, 93_907_072),
    (101, 1, 42_492_480, 42_500_160),
    (152, 1, 58_136_128, 58_143_808),
    (152, 2, 232_238_208, 232_253_568),
    (152, 4, 928_340_224, 928_370_944),
    (200, 3, 562_488_000, 562_511_040),
]


@pytest.mark.parametrize(("depth", "width_factor", "v2", "v1"), COUNTS)
def test_parameter_counts_of_the_paper(depth: int, width_factor: int, v2: int, v1: int) -> None:
    for flavour, expected in (("v1", v1), ("v2", v2)):
        with torch.device("meta"):
            model = ResNet(config(flavour, DEPTHS[depth], width_factor=width_factor), 10)
        head = 2048 * width_factor * 10 + 10
        assert sum(parameter.numel() for parameter in model.parameters()) == expected + head


def names(flavour: str) -> set[str]:
    norms = {"v1": ["stem.norm", "stages.0.blocks.0.downsample.norm"], "v2": ["norm"]}[flavour]
    norms += [f"stages.0.blocks.{unit}.norm{index}" for unit in (0, 1) for index in (1, 2, 3)]
    convs = ["stem.conv", "stages.0.blocks.0.downsample.conv"]
    convs += [f"stages.0.blocks.{unit}.conv{index}" for unit in (0, 1) for index in (1, 2, 3)]
    return {f"{name}.weight" for name in convs} | {f"{name}.{part}" for name in norms for part in ("weight", "bias")}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_names_are_timms(flavour: str) -> None:
    with torch.device("meta"):
        model, headless = ResNet(config(flavour, (2,)), 7), ResNet(config(flavour, (2,)), 0)
    assert set(headless.state_dict()) == names(flavour)
    assert set(model.state_dict()) == names(flavour) | {"head.fc.weight", "head.fc.bias"}
    assert model.state_dict()["head.fc.weight"].shape == (7, 256, 1, 1)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_initial_values(flavour: str) -> None:
    torch.manual_seed(0)
    model = ResNet(config(flavour, (1, 1)), 3, head_bias=-10.0)
    for name, value in model.state_dict().items():
        if (
            "conv" in name
        ):  # LeCun: variance 1 / fan_in, nothing beyond two standard deviations of the untruncated normal
            scale = float(value[0].numel()) ** 0.5
            assert value.std() * scale == pytest.approx(1, abs=0.04), name
            assert 2.1 < value.abs().max() * scale < 2 / 0.8796 + 1e-3, name
        elif "norm" in name:
            starts_at_zero = name.endswith("bias") or (flavour == "v1" and "norm3" in name)
            assert (value == (0.0 if starts_at_zero else 1.0)).all(), name
    assert (model(images(32, 32).float()) == -10).all()
    assert (model.head.fc.weight == 0).all()


def test_a_new_v1_unit_is_its_shortcut() -> None:
    model = ResNet(config("v1", (2,)), 0)
    x = torch.randn(1, 256, 5, 5)
    torch.testing.assert_close(model.stages[0].blocks[1](x), x.relu(), rtol=0, atol=0)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_model_from_meta_starts_as_a_new_one(flavour: str) -> None:
    torch.manual_seed(3)
    expected = ResNet(config(flavour), 4, head_bias=-2.0).state_dict()
    with torch.device("meta"):
        model = ResNet(config(flavour), 4)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    torch.manual_seed(3)
    initialise(model, -2.0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_without_head_the_features_come_out(flavour: str) -> None:
    model = trained(config(flavour), 0)
    x = images(33, 33)
    assert model(x).shape == (2, model.config.num_features)
    assert torch.equal(model(x), model.features(x))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_none(flavour: str) -> None:
    model = trained(config(flavour))
    x = images(33, 33)
    calls: list[int] = []
    model.stages[0].blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    gradients: list[list[Tensor]] = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        loss = (model(x) ** 2).sum()
        gradients.append(list(torch.autograd.grad(loss, list(model.parameters()))))
        assert len(calls) == (1 + 2 if enable else 1)  # the unit is computed again for the backward pass
    for (name, _), plain, again in zip(model.named_parameters(), *gradients, strict=True):
        assert plain.isfinite().all() and plain.abs().max() > 0, name
        torch.testing.assert_close(plain, again, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_one_graph_under_compile(flavour: str, training: bool) -> None:
    torch.compiler.reset()
    model = trained(config(flavour, (1, 1), standardize_eps_on="std" if flavour == "v1" else "variance"))
    model.train(training)
    model.set_grad_checkpointing(training)
    x = images(33, 33)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_bfloat16_autocast_stays_near_float32(flavour: str) -> None:
    model = trained(config(flavour)).float()
    x = images(32, 32).float()
    expected = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = model(x)
    actual.sum().backward()
    assert actual.dtype == torch.bfloat16
    assert 0 < (actual - expected).norm() / expected.norm() < 0.02


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"family": "vit"}, "family 'vit' is none of 'resnet'"),
        ({"flavour": "v3"}, "flavour 'v3' is none of 'v1', 'v2'"),
        ({"standardize_eps_on": "mean"}, "none of 'variance', 'std'"),
        ({"resolution": 0}, "resolution 0 must be at least 1"),
        ({"width_factor": 0}, "width_factor 0 must be at least 1"),
        ({"layers": (3, 0)}, "at least 1 unit"),
        ({"group_norm_eps": 0.0}, "group_norm_eps 0.0 must be above 0"),
        ({"standardize_eps": float("nan")}, "standardize_eps nan must be above 0"),
    ],
)
def test_a_config_that_makes_no_sense_says_why(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(config("v1"), **changes)
