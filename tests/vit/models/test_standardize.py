"""Standardised weights and TensorFlow's padding, each against its definition."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from vit.models.standardize import EpsOn, StandardizedConv2d, pad_same, standardize

torch.set_num_threads(1)


def filters(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.1 + 0.03


def reference(weight: Tensor, eps: float, eps_on: EpsOn) -> np.ndarray:
    """One filter after the other, every sum written out; the variance is that of the population (ddof 0)."""
    out = []
    for values in weight.numpy():
        mean = values.sum() / values.size
        variance = ((values - mean) ** 2).sum() / values.size
        scale = (variance + eps) ** 0.5 if eps_on == "variance" else variance**0.5 + eps
        out.append((values - mean) / scale)
    return np.stack(out)


@pytest.mark.parametrize("eps_on", get_args(EpsOn))
@pytest.mark.parametrize("eps", [1e-10, 1e-5, 0.3])
@pytest.mark.parametrize("shape", [(5, 3, 7, 7), (4, 6, 3, 3), (3, 8, 1, 1)])
def test_every_filter_is_standardised_by_its_population_variance(
    shape: tuple[int, ...], eps: float, eps_on: EpsOn
) -> None:
    weight = filters(*shape)
    np.testing.assert_allclose(standardize(weight, eps, eps_on), reference(weight, eps, eps_on), rtol=1e-11, atol=1e-12)


def test_the_eps_of_the_authors_is_on_the_standard_deviation() -> None:
    weight = torch.tensor([3.0, 1.0]).reshape(1, 2, 1, 1)  # mean 2, standard deviation 1 (with ddof 1: sqrt 2)
    assert standardize(weight, 1.0, "std").flatten().tolist() == [0.5, -0.5]
    torch.testing.assert_close(standardize(weight, 3.0, "variance").flatten(), torch.tensor([0.5, -0.5]))
    torch.testing.assert_close(standardize(weight, 1e-10, "variance").flatten(), torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("eps_on", get_args(EpsOn))
def test_half_precision_is_standardised_in_float32_also_under_autocast(eps_on: EpsOn) -> None:
    weight = filters(4, 6, 3, 3).bfloat16()
    expected = standardize(weight.float(), 1e-5, eps_on)
    torch.testing.assert_close(standardize(weight, 1e-5, eps_on), expected.bfloat16(), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(standardize(weight.float(), 1e-5, eps_on), expected, rtol=0, atol=0)


@pytest.mark.parametrize("eps_on", get_args(EpsOn))
def test_the_gradient_is_that_of_finite_differences(eps_on: EpsOn) -> None:
    weight = filters(2, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: standardize(w, 1e-2, eps_on), (weight,))


@pytest.mark.parametrize("eps_on", get_args(EpsOn))
def test_a_constant_filter_gives_zeros_and_a_finite_gradient(eps_on: EpsOn) -> None:
    weight = torch.zeros(2, 4, 3, 3, requires_grad=True)
    out = standardize(weight, 1e-5, eps_on)
    (out * torch.randn(out.shape)).sum().backward()
    assert weight.grad is not None
    assert out.abs().max() == 0 and weight.grad.isfinite().all() and weight.grad.abs().max() > 0


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_is_the_least_that_fits_and_an_odd_zero_comes_after(kernel: int, stride: int) -> None:
    for side in range(1, 40):
        total = 0
        while side + total < kernel or (side + total - kernel) // stride + 1 < -(-side // stride):
            total += 1
        low, high = total // 2, -(-total // 2)
        images = torch.ones(1, 1, side, side)
        padded, (rows, columns) = pad_same(images, kernel, stride)
        whole = torch.nn.functional.pad(padded, (columns, columns, rows, rows))
        torch.testing.assert_close(whole, torch.nn.functional.pad(images, (low, high, low, high)))


@pytest.mark.parametrize(
    ("side", "kernel", "zeros"), [(224, 7, (2, 3)), (33, 7, (3, 3)), (56, 3, (0, 1)), (7, 3, (1, 1))]
)
def test_same_padding_of_known_layers(side: int, kernel: int, zeros: tuple[int, int]) -> None:
    """The first lines of R50 at 224 and of an odd size, from TensorFlow's rule."""
    padded, (rows, _) = pad_same(torch.ones(1, 1, side, 1), kernel, 2)
    filled = padded.sum(dim=(0, 1, 3)).nonzero().flatten()
    assert (rows + int(filled[0]), rows + padded.shape[2] - 1 - int(filled[-1])) == zeros


def test_sides_are_padded_each_for_itself() -> None:
    conv = StandardizedConv2d(2, 3, 3, stride=2, same=True, eps=(1e-5, "std")).double()
    images = filters(1, 2, 33, 32)
    weight = torch.from_numpy(reference(conv.weight.detach(), 1e-5, "std"))
    padded = torch.nn.functional.pad(images, (0, 1, 1, 1))  # left, right of the even side; top, bottom of the odd one
    torch.testing.assert_close(conv(images), torch.nn.functional.conv2d(padded, weight, stride=2))


def test_the_parameter_stays_as_it_was_trained() -> None:
    conv = StandardizedConv2d(2, 3, 3, stride=1, same=False, eps=(1e-10, "variance"))
    before = conv.weight.detach().clone()
    conv(torch.randn(1, 2, 5, 5))
    assert torch.equal(conv.weight, before) and [name for name, _ in conv.named_parameters()] == ["weight"]
