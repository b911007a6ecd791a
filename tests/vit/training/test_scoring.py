"""Scores of images with several labels: any of them counts for top-1, mAP is scikit-learn's; with one label top-1."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from vit.data.pictures import encode_png
from vit.data.shards import Example, Shards, write
from vit.training.scoring import BINS, LARGEST, Counts, score


class Table(nn.Module):
    """Logits looked up by the grey of an image, which is its number."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = torch.from_numpy(logits.astype(np.float32))

    def forward(self, images: Tensor) -> Tensor:
        numbers = ((images[:, 0, 0, 0] + 1) * 127.5).round().long()
        return self.logits[numbers]


def shards(directory: Path, labels: list[tuple[int, ...]], num_classes: int) -> Shards:
    examples = [
        Example(
            key=f"image-{number}",
            split="val",
            labels=own,
            image=encode_png(np.full((6, 6, 3), number, np.uint8)),
            ext="png",
            width=6,
            height=6,
        )
        for number, own in enumerate(labels)
    ]
    write(directory, examples, name="toy", class_names=[f"class {label}" for label in range(num_classes)])
    found = Shards(directory)
    found.multi_label = any(len(own) != 1 for own in labels)  # the manifest of a source says so
    return found


def test_any_of_several_labels_counts_and_none_counts_neither_way(tmp_path: Path) -> None:
    labels = [(0, 2), (0, 2), (0, 2), (), (1,)]
    logits = np.array([[3, 0, 0, 0], [0, 0, 3, 0], [0, 3, 0, 0], [3, 0, 0, 0], [0, 3, 0, 1.0]])
    found = score(Table(logits), shards(tmp_path, labels, 4), resolution=6, view="square")
    assert found["top1"] == pytest.approx(3 / 4)  # the first label alone would give 2/4, a set without the fourth 3/5
    assert set(found) == {"top1", "mAP"}


def test_map_is_that_of_scikit_learn(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    truth = generator.random((200, 7)) < 0.2
    truth[:, 5] = False  # a class without an image is left out
    labels = [tuple(np.flatnonzero(row).tolist()) for row in truth]
    logits = generator.normal(truth * 2.0 - 3, 2.0)
    found = score(Table(logits), shards(tmp_path, labels, 7), resolution=6, view="square")
    step = (BINS - 1) / (2 * LARGEST)
    binned = np.round((np.clip(logits.astype(np.float32), -LARGEST, LARGEST) + LARGEST) * step)
    there = [label for label in range(7) if truth[:, label].any()]
    expected = np.mean([average_precision_score(truth[:, label], binned[:, label]) for label in there])
    exact = np.mean([average_precision_score(truth[:, label], logits[:, label]) for label in there])
    assert found["mAP"] == pytest.approx(expected, abs=1e-9) and found["mAP"] == pytest.approx(exact, abs=0.01)


def test_counts_do_not_depend_on_how_the_images_are_shared_out() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(90, 5, generator=generator), (torch.rand(90, 5, generator=generator) < 0.3).float()
    whole, parts = Counts(5), Counts(5)
    whole.add(logits, targets)
    for place in torch.arange(90).split(17):
        parts.add(logits[place], targets[place])
    assert whole.mean_average_precision() == parts.mean_average_precision() > 0.3


def test_one_label_is_plain_top1(tmp_path: Path) -> None:
    logits = np.eye(3)[[0, 1, 1, 2]]
    found = score(Table(logits), shards(tmp_path, [(0,), (1,), (2,), (2,)], 3), resolution=6, view="centre")
    assert found == {"top1": 0.75}


def test_nothing_to_score_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the 2 images .* has a label"):
        score(Table(np.zeros((2, 3))), shards(tmp_path, [(), ()], 3), resolution=6, view="square")
