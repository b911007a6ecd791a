"""Batches are mixed and erased as stated, the same for any number of workers."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vit.data.mixing import MixConfig, cut_box, erase, erased_boxes, mix
from vit.data.order import Samples
from vit.training.loss import classification_loss

NONE = MixConfig(mixup=0.0, cutmix=0.0, erasing=0.0)
SIDE = 24


def some_batch(size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, SIDE, SIDE, generator=generator)
    return images, F.one_hot(torch.arange(size), size).float()


def samples(size: int, epoch: int = 0) -> Samples:
    return Samples(np.arange(size), np.full(size, epoch), np.arange(size))


def test_nothing_is_the_default() -> None:
    images, targets = some_batch()
    assert mix(images, targets, NONE, seed=0, step=0)[0] is images
    assert erase(images, samples(8), NONE, seed=0) is images


def test_mixup_blends_neighbours_by_the_weight_in_the_targets() -> None:
    images, targets = some_batch()
    weights: list[float] = []
    for step in range(200):
        mixed, soft = mix(images, targets, dataclasses.replace(NONE, mixup=0.4), seed=1, step=step)
        weight = soft[0, 0].item()
        weights.append(weight)
        assert torch.allclose(mixed[2], weight * images[2] + (1 - weight) * images[3], atol=1e-6)
        assert torch.allclose(mixed[3], weight * images[3] + (1 - weight) * images[2], atol=1e-6)
        assert torch.allclose(soft.sum(1), torch.ones(8))
        assert soft[5, 4].item() == pytest.approx(1 - weight, abs=1e-6)
    # Beta(0.4, 0.4) has mean 1/2 and variance 1 / (4 (2 * 0.4 + 1)).
    assert np.mean(weights) == pytest.approx(0.5, abs=0.08)
    assert np.var(weights) == pytest.approx(1 / (4 * 1.8), rel=0.2)


def test_cutmix_swaps_a_square_and_counts_its_pixels() -> None:
    images, targets = some_batch()
    shares: list[float] = []
    for step in range(100):
        mixed, soft = mix(images, targets, dataclasses.replace(NONE, cutmix=1.0), seed=1, step=step)
        replaced = (mixed[0] == images[1]).all(dim=0)
        assert torch.equal(replaced | (mixed[0] == images[0]).all(dim=0), torch.ones(SIDE, SIDE, dtype=torch.bool))
        assert soft[0, 1].item() == pytest.approx(replaced.float().mean().item(), abs=1e-6)
        rows, columns = replaced.any(1).sum().item(), replaced.any(0).sum().item()
        assert rows * columns == replaced.sum().item()  # a rectangle
        shares.append(replaced.float().mean().item())
    assert 0.2 < np.mean(shares) < 0.45 and np.max(shares) > 0.6


def test_cut_boxes_are_cut_off_at_the_border() -> None:
    assert cut_box(100, 0.75, (0.5, 0.5)) == (25, 25, 75, 75)
    assert cut_box(100, 0.75, (0.0, 0.99)) == (0, 74, 25, 100)
    assert cut_box(100, 1.0, (0.5, 0.5)) == (50, 50, 50, 50)


def test_both_take_turns() -> None:
    images, targets = some_batch()
    both = MixConfig(mixup=1.0, cutmix=1.0, erasing=0.0)
    cut = [
        bool((mix(images, targets, both, seed=0, step=step)[0][0] == images[0]).all(dim=0).any()) for step in range(100)
    ]
    assert 35 < sum(cut) < 65


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_mix_and_erase_as_one_would(world_size: int) -> None:
    images, targets = some_batch()
    config = MixConfig(mixup=0.5, cutmix=0.5, erasing=0.5)
    for step in range(4):
        erased = erase(images, samples(8), config, seed=2)
        alone = mix(erased, targets, config, seed=2, step=step)
        share = 8 // world_size
        parts: list[tuple[Tensor, Tensor]] = []
        for start in range(0, 8, share):
            part = slice(start, start + share)
            mine = erase(images[part], Samples(*(column[part] for column in samples(8))), config, seed=2)
            parts.append(mix(mine, targets[part], config, seed=2, step=step))
        for whole, pieces in zip(alone, zip(*parts, strict=True), strict=True):
            assert torch.equal(torch.cat(pieces), whole)


def test_erasing_replaces_a_rectangle_by_noise() -> None:
    images = torch.zeros(400, 3, SIDE, SIDE)
    config = dataclasses.replace(NONE, erasing=0.25)
    erased = erase(images, samples(400), config, seed=0)
    boxes = erased_boxes(samples(400), SIDE, 0.25, seed=0)
    for image, (left, top, width, height) in zip(erased, boxes.tolist(), strict=True):
        inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        assert torch.equal((image != 0).all(dim=0), inside) and torch.equal((image != 0).any(dim=0), inside)
    hit = boxes[:, 2] > 0
    area = boxes[hit, 2] * boxes[hit, 3] / SIDE**2
    assert 70 < hit.sum() < 130 and 0.01 < area.min() < 0.04 and 0.25 < area.max() < 0.36
    noise = erased[erased != 0]
    assert abs(noise.mean().item()) < 0.02 and abs(noise.std().item() - 1) < 0.02
    assert not torch.equal(erase(images, samples(400, epoch=1), config, seed=0), erased)
    assert torch.equal(images, torch.zeros_like(images))  # what comes in is not touched


def test_odd_shares_cannot_be_mixed() -> None:
    images, targets = some_batch(7)
    with pytest.raises(ValueError, match="pair up the 7 images of each worker"):
        mix(images, targets, dataclasses.replace(NONE, mixup=0.2), seed=0, step=0)


@pytest.mark.parametrize(("name", "value"), [("mixup", -0.1), ("cutmix", -1.0), ("erasing", 1.2)])
def test_bad_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} {value} must"):
        dataclasses.replace(NONE, **{name: value})


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_losses_of_soft_targets(kind: str) -> None:
    logits, labels = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 4, 0])
    hard = classification_loss(logits, labels, kind)
    one_hot = F.one_hot(labels, 5).float()
    assert torch.allclose(classification_loss(logits, one_hot, kind), hard)
    other = F.one_hot(labels.roll(1), 5).float()
    mixed = classification_loss(logits, 0.3 * one_hot + 0.7 * other, kind)
    # Both losses are linear in the targets.
    assert torch.allclose(mixed, 0.3 * hard + 0.7 * classification_loss(logits, other, kind))
