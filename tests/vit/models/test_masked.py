"""Masked patch prediction: who is hidden, what is asked, and that nothing else is learned from."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.vit.models.toy_vit import STEM, TINY
from vit.models.masked import (
    Corruption,
    MaskedPatchPrediction,
    MaskingConfig,
    Target,
    corruption,
    draws_from_generator,
    draws_from_ids,
    patch_targets,
)
from vit.models.vit import ViT

BODY = dataclasses.replace(TINY, width=16, depth=2, num_heads=2, mlp_dim=24)
PAPER = MaskingConfig(target="mean_colour", corrupted=0.5, masked=0.8, replaced=0.1)
TARGETS: list[Target] = ["mean_colour", "downsized", "pixels"]


def plan_for(batch_size: int = 2, seed: int = 0, num_patches: int = 16) -> Corruption:
    generator = torch.Generator().manual_seed(seed)
    return corruption(draws_from_generator(generator, batch_size=batch_size, num_patches=num_patches), PAPER)


def task(target: Target, **fields: Any) -> MaskedPatchPrediction:
    torch.manual_seed(0)
    model = MaskedPatchPrediction(
        ViT(dataclasses.replace(BODY, **fields), 0), dataclasses.replace(PAPER, target=target)
    )
    nn.init.normal_(model.head.weight, std=0.3)
    return model


def images_in_range(batch_size: int = 2) -> Tensor:
    return torch.rand(batch_size, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1


def test_half_of_the_patches_are_corrupted_in_the_papers_proportions() -> None:
    plan = plan_for(batch_size=400, num_patches=196)
    here = torch.arange(196).expand(400, -1)
    corrupted = torch.zeros(400, 196, dtype=torch.bool).scatter(1, plan.indices, True)
    replaced = plan.source != here
    assert torch.equal(corrupted.sum(dim=1), torch.full((400,), 98))
    assert not (plan.masked & replaced).any() and not ((plan.masked | replaced) & ~corrupted).any()
    assert plan.masked.sum().item() / corrupted.sum().item() == pytest.approx(0.8, abs=0.01)
    assert replaced.sum().item() / corrupted.sum().item() == pytest.approx(0.1, abs=0.01)
    frequencies = corrupted.float().mean(dim=0)
    assert frequencies.min() > 0.4 and frequencies.max() < 0.6  # no place is favoured
    distance = ((plan.source - here) % 196)[replaced]
    assert distance.min() >= 1 and distance.max() <= 195 and distance.float().mean().item() == pytest.approx(98, abs=3)


@pytest.mark.parametrize(("draw", "step"), [(0.0, 1), (0.5, 8), (1 - 2**-53, 15)])
def test_another_patch_is_never_the_patch_itself(draw: float, step: int) -> None:
    draws = torch.stack([torch.arange(16.0)[None] / 16, torch.full((1, 16), 0.85), torch.full((1, 16), draw)]).double()
    draws[2] = draw  # float64, where 1 - 2**-53 is still below 1
    plan = corruption(draws, PAPER)
    assert plan.indices.tolist() == [list(range(8))] and not plan.masked.any()
    assert plan.source.tolist() == [[(i + step) % 16 for i in range(8)] + list(range(8, 16))]


def test_draws_depend_on_the_example_alone() -> None:
    ids, epochs = np.array([3, 8, 11, 3]), np.array([0, 0, 0, 1])
    together = draws_from_ids(ids, epochs, seed=1, num_patches=16)
    for row in range(4):
        alone = draws_from_ids(ids[[row]], epochs[[row]], seed=1, num_patches=16)
        assert torch.equal(alone[:, 0], together[:, row])
    assert together.shape == (3, 4, 16) and together.unique().numel() == together.numel()
    assert (together[:, 0] != draws_from_ids(ids, epochs, seed=2, num_patches=16)[:, 0]).all()
    assert together.min() >= 0 and together.max() < 1


def test_one_seed_makes_one_plan() -> None:
    for ours, same, other in zip(plan_for(seed=1), plan_for(seed=1), plan_for(seed=2), strict=True):
        assert torch.equal(ours, same) and not torch.equal(ours, other)


def test_the_encoder_sees_mask_embedding_other_patch_or_the_patch() -> None:
    model, images, plan = task("pixels"), images_in_range(), plan_for(seed=3)
    assert plan.masked.any() and (plan.source != torch.arange(16)).any()
    seen: list[Tensor] = []
    encode = model.vit.encode
    model.vit.encode = lambda patches: (seen.append(patches), encode(patches))[1]
    model(images, plan)
    patches = model.vit.patches(images)
    for image in range(2):
        for place in range(16):
            other = patches[image, plan.source[image, place]]
            expected = model.mask_token[0, 0] if plan.masked[image, place] else other
            assert torch.equal(seen[0][image, place], expected)


def test_mean_colour_classes_by_hand() -> None:
    images = torch.full((1, 3, 32, 32), -1.0)
    images[0, 0, :8, 8:16] = 1.0  # patch 1: pure red
    images[0, 1, 8:16, :8] = 0.0  # patch 4: half green, level 4
    images[0, 2, 24:, 28:] = 1.0  # patch 15: right half full blue, mean level 4
    classes = patch_targets(images, BODY, "mean_colour")
    expected = torch.zeros(1, 16, 1, dtype=torch.int64)
    expected[0, 1], expected[0, 4], expected[0, 15] = 7 * 64, 4 * 8, 4
    assert torch.equal(classes, expected)


def test_downsized_classes_by_hand() -> None:
    images = torch.full((1, 3, 32, 32), -1.0)
    images[0, 0, 2:4, 8:10] = 1.0  # patch 1, second row, first column of 2 x 2 pixel cells
    images[0, 2, 0, 14:16] = 1.0  # patch 1, first row, last column: upper half of the cell
    classes = patch_targets(images, BODY, "downsized")
    expected = torch.zeros(1, 16, 16, dtype=torch.int64)
    expected[0, 1, 4], expected[0, 1, 3] = 7 * 64, 4
    assert torch.equal(classes, expected)


def test_pixel_targets_are_the_patches_as_crops() -> None:
    images = images_in_range()
    targets = patch_targets(images, BODY, "pixels")
    assert targets.shape == (2, 16, 8 * 8 * 3)
    crop = images[1, :, 16:24, 8:16]  # row 2, column 1
    assert torch.equal(targets[1, 2 * 4 + 1], crop.permute(1, 2, 0).flatten())


def test_patches_of_14_pixels_downsize_too() -> None:
    config = dataclasses.replace(BODY, resolution=28, patch_size=14)
    images = torch.full((1, 3, 28, 28), 0.99)
    assert torch.equal(patch_targets(images, config, "downsized"), torch.full((1, 4, 16), 511))


@pytest.mark.parametrize("pooling", ["tok", "gap"])
@pytest.mark.parametrize("target", TARGETS)
def test_loss_is_that_of_corrupted_patches_only(target: Target, pooling: str) -> None:
    model, images, plan = task(target, pooling=pooling), images_in_range(), plan_for()
    outputs: list[Tensor] = []
    model.vit.norm.register_forward_hook(lambda _, __, output: (output.retain_grad(), outputs.append(output))[0])
    loss = model(images, plan)
    loss.backward()
    prefix = model.vit.config.num_prefix_tokens
    learned_from = outputs[0].grad.abs().sum(dim=2)
    corrupted = torch.zeros(2, 16, dtype=torch.bool).scatter(1, plan.indices, True)
    assert torch.equal(learned_from[:, prefix:] > 0, corrupted)
    assert learned_from[:, :prefix].sum() == 0
    predictions, targets = model.head(outputs[0][:, prefix:]), patch_targets(images, BODY, target)
    losses = [one_loss(predictions[i], targets[i], target) for i in corrupted.nonzero().unbind(0) for i in [tuple(i)]]
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-5, atol=1e-6)


def one_loss(prediction: Tensor, answer: Tensor, target: Target) -> Tensor:
    """The loss of a single patch, written out."""
    if target == "pixels":
        return (prediction - answer).square().mean()
    return F.cross_entropy(prediction.reshape(-1, 512), answer)


@pytest.mark.parametrize("target", TARGETS)
def test_under_autocast_the_loss_is_computed_in_float32(target: Target) -> None:
    model, images, plan = task(target), images_in_range(), plan_for()
    predicted: list[Tensor] = []
    model.head.register_forward_hook(lambda _, __, output: predicted.append(output.detach()))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images, plan)
    assert (predicted[0].dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    targets = patch_targets(images, BODY, target).gather(
        1, plan.indices[..., None].expand(-1, -1, {"mean_colour": 1, "downsized": 16, "pixels": 192}[target])
    )
    pairs = zip(predicted[0].double().flatten(0, 1), targets.flatten(0, 1), strict=True)
    expected = torch.stack([one_loss(prediction, answer, target) for prediction, answer in pairs]).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0.0)


def test_every_parameter_is_trained_and_the_loss_falls() -> None:
    model, images, plan = task("mean_colour"), images_in_range(4), plan_for(batch_size=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(images, plan)
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_it_starts_at_the_loss_of_chance() -> None:
    model = MaskedPatchPrediction(ViT(BODY, 0), PAPER)
    assert model(images_in_range(), plan_for()).item() == pytest.approx(np.log(512), rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("target", TARGETS)
def test_compiles_to_one_graph(target: Target, training: bool) -> None:
    model, images, plan = task(target, depth=1).train(training), images_in_range(), plan_for()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images, plan), model(images, plan))


@pytest.mark.parametrize(("num_classes", "fields"), [(3, {}), (0, {"representation": True}), (0, {"pooling": "map"})])
def test_a_network_with_layers_left_over_is_refused(num_classes: int, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="trains neither head"):
        MaskedPatchPrediction(ViT(dataclasses.replace(BODY, **fields), num_classes), PAPER)


def test_patches_that_do_not_tile_the_image_are_refused() -> None:
    stem = dataclasses.replace(STEM, resolution=33)
    with pytest.raises(ValueError, match="5 patches of 8 pixels do not tile resolution 33"):
        MaskedPatchPrediction(ViT(dataclasses.replace(BODY, resolution=33, patch_size=1, stem=stem), 0), PAPER)


@pytest.mark.parametrize("fields", [{"corrupted": 0.0}, {"masked": 0.8, "replaced": 0.3}, {"replaced": -0.1}])
def test_shares_that_make_no_sense_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        dataclasses.replace(PAPER, **fields)
