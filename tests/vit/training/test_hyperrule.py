"""BiT-HyperRule against the numbers of its paper (§3.3), and its staircase against counting by hand."""

from pathlib import Path

import numpy as np
import pytest

from tests.recipes import augmentation, training
from vit.data.mixing import MixConfig
from vit.data.shards import Shards, png_example, write
from vit.training.hyperrule import TransferConfig, applied, hyperrule
from vit.training.schedule import learning_rate

ASKED = TransferConfig(
    resolution=24,
    train=training(steps=7, warmup_steps=2, batch_size=6, label_smoothing=0.1, seed=11, precision="bfloat16"),
    augment=augmentation(crop_area=0.3, mix=MixConfig(mixup=0.5, cutmix=0.5, erasing=0.0)),
)


@pytest.mark.parametrize(
    ("name", "num_images", "side", "expected"),
    [  # steps, warm-up, mixup, resolution, resized to
        ("flowers", 2_040, 224, (500, 100, 0.0, 384, 448)),
        ("pets", 3_680, 224, (500, 100, 0.0, 384, 448)),
        ("VTAB's SVHN", 1_000, 32, (500, 100, 0.0, 128, 160)),
        ("the last small one", 19_999, 95, (500, 100, 0.0, 128, 160)),
        ("the first middle one", 20_000, 96, (10_000, 500, 0.1, 384, 448)),
        ("cifar", 50_000, 32, (10_000, 500, 0.1, 128, 160)),
        ("the last middle one", 499_999, 224, (10_000, 500, 0.1, 384, 448)),
        ("imagenet", 1_281_167, 224, (20_000, 500, 0.1, 384, 448)),
    ],
)
def test_the_rule(name: str, num_images: int, side: int, expected: tuple[int, int, float, int, int]) -> None:
    found = hyperrule(ASKED, num_images=num_images, area=side * side)
    train, augment = found.train, found.augment
    resized = found.resolution / augment.crop_area**0.5
    numbers = (train.steps, train.warmup_steps, augment.mix.mixup, found.resolution, round(resized))
    assert numbers == expected, name
    assert (train.optimizer, train.momentum, train.learning_rate, train.batch_size) == ("sgd", 0.9, 0.003, 512)
    assert (train.decay, train.weight_decay, train.loss, train.label_smoothing) == ("staircase", 0.0, "softmax", 0.0)
    assert (augment.crop, augment.flip, augment.mix.cutmix) == ("square", True, 0.0)
    assert (train.seed, train.precision) == (11, "bfloat16"), "what the rule does not speak of stays"


def test_the_rate_falls_to_a_tenth_three_times() -> None:
    train = hyperrule(ASKED, num_images=30_000, area=1).train
    at = {step: learning_rate(step, train) for step in (0, 249, 499, 3000, 3001, 6000, 6001, 9000, 9001, 9999)}
    rate = 0.003
    expected = [rate / 500, rate / 2, rate, rate, rate / 10, rate / 10, rate / 100, rate / 100, rate / 1e3, rate / 1e3]
    assert list(at.values()) == pytest.approx(expected)


def test_number_and_size_are_those_of_the_images(tmp_path: Path) -> None:
    sides = [20, 30, 200, 120, 100]
    examples = [png_example(f"{n}", "train", 0, np.zeros((side, side, 3), np.uint8)) for n, side in enumerate(sides)]
    write(tmp_path, examples, name="toy", class_names=["a"])
    large, small = Shards(tmp_path), Shards(tmp_path)
    small.table = small.table.slice(0, 2)
    assert applied("own", ASKED, large) is ASKED
    assert applied("bit-hyperrule", ASKED, large).resolution == 384
    assert applied("bit-hyperrule", ASKED, small).resolution == 128
