"""mini-VTAB and the mini corpus: published splits, exact sizes, labels that the pixels bear out, planted copies."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from vit.data import shards
from vit.data.synthetic import corpus, mini_vtab, photos, planted, scenes, sprites
from vit.data.synthetic.renderer import paint, regular
from vit.data.synthetic.solids import box, rotation, visible
from vit.typing import Floats, Ints

SMALL = {"mini_digits": 797} | dict.fromkeys([task.name for task in mini_vtab.TASKS[1:]], 60)


def fingerprint(keys: Ints) -> str:
    return hashlib.sha256("\n".join(map(str, keys.tolist())).encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def train() -> dict[str, mini_vtab.Images]:
    return {task.name: mini_vtab.build(task, "train800") for task in mini_vtab.TASKS}


@pytest.fixture(scope="module")
def tests() -> dict[str, mini_vtab.Images]:
    """The test sets, most of them short."""
    return {
        task.name: mini_vtab.build(dataclasses.replace(task, num_test=SMALL[task.name]), "test")
        for task in mini_vtab.TASKS
    }


def test_the_table_is_the_published_one() -> None:
    rows = [(task.name, task.group[:3], task.num_classes, task.num_test) for task in mini_vtab.TASKS]
    assert rows == [
        ("mini_digits", "nat", 10, 797),
        ("mini_texture", "nat", 3, 1000),
        ("mini_photo", "nat", 6, 1000),
        ("mini_modality", "spe", 4, 1000),
        ("mini_stain", "spe", 2, 1000),
        ("mini_count", "str", 8, 2000),
        ("mini_dist", "str", 6, 2000),
        ("mini_loc", "str", 16, 2000),
        ("mini_ori", "str", 16, 2000),
        ("mini_azi", "str", 18, 2000),
    ]


def test_sprites_are_the_records_of_vtab() -> None:
    train, val, test = (sprites.split_keys(split) for split in mini_vtab.SPLITS)
    assert train[:3].tolist() == [16399, 634903, 206287]
    assert val[:3].tolist() == [220697, 85843, 84902]
    assert (fingerprint(train), fingerprint(val)) == ("54130b46ffd22579", "86005e8c04783edc")
    assert (len(test), fingerprint(test)) == (73_728, "047f98bb94c6f871")
    loc, ori = np.bincount(sprites.location(train)), np.bincount(sprites.orientation(train))
    assert loc.tolist() == [54, 42, 45, 45, 48, 54, 49, 48, 62, 51, 50, 60, 50, 47, 53, 42]
    assert ori.tolist() == [59, 43, 67, 50, 53, 45, 58, 43, 61, 38, 52, 42, 56, 35, 57, 41]


def test_sprites_move_right_with_their_label() -> None:
    keys = np.arange(0, 32 * 32, 32)  # one square at all 32 columns
    columns = sprites.pixels(keys)[..., 0].astype(float).sum(axis=1) @ np.arange(32)
    centres = columns / sprites.pixels(keys)[..., 0].astype(float).sum(axis=(1, 2))
    assert np.diff(centres).min() > 0.3
    first, last = 0, 39 * 1024  # the first and last orientation are the same angle
    assert (sprites.pixels(np.array([first])) == sprites.pixels(np.array([last]))).all()


def test_train_and_test_share_no_image(train: dict[str, mini_vtab.Images], tests: dict[str, mini_vtab.Images]) -> None:
    for name in train:
        seen = {pixels.tobytes() for pixels in train[name].pixels}
        assert len(seen) == 800, name
        assert not seen & {pixels.tobytes() for pixels in tests[name].pixels}, name


def test_all_classes_occur(train: dict[str, mini_vtab.Images]) -> None:
    for task in mini_vtab.TASKS:
        images = train[task.name]
        assert images.pixels.dtype == np.uint8 and images.pixels.shape[3] == 3
        counts = np.bincount(images.labels, minlength=task.num_classes)
        assert len(counts) == task.num_classes and counts.min() > 0.5 * 800 / task.num_classes, task.name


def test_keys_are_in_md5_order(train: dict[str, mini_vtab.Images]) -> None:
    for name in ("mini_texture", "mini_count"):
        ranks = [hashlib.md5(f"{name}/train800{key}".encode()).hexdigest() for key in train[name].keys.tolist()]
        assert ranks == sorted(ranks)
        assert sorted(train[name].keys.tolist()) == list(range(800))


def test_digits_look_like_digits(train: dict[str, mini_vtab.Images], tests: dict[str, mini_vtab.Images]) -> None:
    few, many = train["mini_digits"], tests["mini_digits"]
    reference, asked = (images.pixels[:, ::4, ::4, 0].reshape(-1, 64).astype(float) for images in (few, many))
    distances = (asked**2).sum(1)[:, None] - 2 * asked @ reference.T + (reference**2).sum(1)
    assert (few.labels[distances.argmin(1)] == many.labels).mean() > 0.95  # nearest neighbour


def test_crops_of_different_splits_share_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    # A picture whose pixels name their place; red and green carry the column.
    y, x = np.mgrid[:400, :500]
    picture = np.stack([x // 256, x % 256, y % 256], axis=2).astype(np.uint8)
    photos.picture.cache_clear()
    monkeypatch.setattr(photos, "picture", lambda _name: picture)
    seen: dict[str, set[int]] = {}
    for split in mini_vtab.SPLITS:
        _, pixels = photos.crops("task", split, 50, names=("place",), size=32)
        seen[split] = set((pixels[..., 0].astype(int) * 256 + pixels[..., 1]).ravel().tolist())
    assert max(seen["train800"]) < 300 <= 310 <= min(seen["val200"]) <= max(seen["val200"]) < 390
    assert min(seen["test"]) >= 400


def test_stain_is_brown_in_the_middle(train: dict[str, mini_vtab.Images]) -> None:
    images = train["mini_stain"]
    middle = images.pixels[:, 8:24, 8:24].astype(float).mean(axis=(1, 2))
    brown = middle[:, 0] - middle[:, 2]  # red above blue
    assert brown[images.labels == 1].mean() > brown[images.labels == 0].mean() + 20


def test_depth_bins_are_half_open() -> None:
    labels, pixels = scenes.distance("stream", np.arange(200))
    assert set(labels.tolist()) == set(range(6))
    lowest = np.array([np.flatnonzero((image != image[-1, 0]).any(axis=(1, 2)))[-1] for image in pixels])
    means = [lowest[labels == label].mean() for label in range(6)]
    assert (np.diff(means) < -1).all()  # the farther the nearest object, the higher in the image it stands


def test_a_box_shows_the_faces_towards_the_camera() -> None:
    def straight(points: Floats) -> Floats:
        return points[:, :2] * [1, -1]

    unit = box(-np.ones(3), np.ones(3))
    assert [face for face, _ in visible(unit, straight)] == [4]  # front
    assert [face for face, _ in visible(unit @ rotation(0.0, 0.5), straight)] == [3, 4]  # top, front
    assert len(visible(unit @ rotation(0.5, 0.5), straight)) == 3


def test_polygons_are_anti_aliased() -> None:
    image = paint(16, (0, 0, 0), [(regular(32) * 5 + 8, (255, 255, 255))])
    assert image[8, 8, 0] == 255 and image[0, 0, 0] == 0
    assert abs(image[..., 0].astype(float).sum() / 255 - np.pi * 25) < 4
    assert len(np.unique(image)) > 5


def test_the_corpus_tells_its_classes_apart() -> None:
    rows = np.arange(128)
    labels = rows % 64
    pixels = corpus.render(7, rows, labels)
    assert len(corpus.CLASS_NAMES) == 64 == len(set(corpus.CLASS_NAMES))
    assert (pixels[40:50] == corpus.render(7, rows[40:50], labels[40:50])).all()  # a row depends on no other
    assert (pixels != corpus.render(8, rows, labels)).any(axis=(1, 2, 3)).all()
    names = [corpus.CLASS_NAMES[label] for label in labels]
    middle = pixels.astype(float).max(axis=(1, 2))
    means = {hue: middle[[hue in name for name in names]].mean(axis=0) for hue in corpus.PALETTES}
    assert [int(means[hue].argmax()) for hue in ("orange", "green", "blue")] == [0, 1, 2]
    assert means["pink"][1] == means["pink"].min()


def test_planted_copies_are_what_the_list_says(tests: dict[str, mini_vtab.Images]) -> None:
    examples = {
        name: [shards.png_example(f"test-{key}", "test", 0, p) for key, p in zip(i.keys, i.pixels, strict=True)]
        for name, i in tests.items()
    }
    copies = planted.choose([f"image-{row}" for row in range(80)], examples, seed=0)
    assert len({(copy.task, copy.edit) for copy in copies}) == 80  # ten tasks, eight edits
    assert len({(copy.task, copy.test.key) for copy in copies}) == 80
    for copy in copies:
        blank = shards.png_example(copy.key, "train", 5, np.zeros((48, 48, 3), dtype=np.uint8))
        check_copy(planted.replaced(blank, copy), copy)


def check_copy(shown: shards.Example, copy: planted.Copy) -> None:
    assert (shown.key, shown.label, shown.split) == (copy.key, 5, "train")
    image, original = shards.decode(shown.image), shards.decode(copy.test.image)
    assert image.size == (shown.width, shown.height)
    factor = {"smaller": 0.75, "larger": 1.5, "crop": 0.9}.get(copy.edit, 1.0)
    assert shown.width == round(factor * original.width)
    assert (shown.image == copy.test.image) == (copy.edit == "copy")
    assert shown.ext == ("jpg" if copy.edit == "jpeg" else "png")
    before, after = (np.asarray(picture.resize((8, 8)), dtype=float) for picture in (original, image))
    if copy.edit == "flip":
        after = after[:, ::-1]
    assert np.abs(before - after).mean() < 45, copy.edit


def test_too_small_a_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_images is 100, but 64 classes need at least two images each"):
        corpus.write(tmp_path, {}, seed=0, num_images=100, val_fraction=0.1, planted_fraction=0)
