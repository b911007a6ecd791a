"""Copies are found whatever was done to them, look-alikes are not, and how the work is cut up changes nothing."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage import data
from vit.dedup.hashes import codes, thumbnail

from vit.data import shards
from vit.dedup import prints
from vit.dedup.search import Match, TestIndex
from vit.dedup.views import FLIPS, FULL, TEST_VIEWS, TRAIN_VIEWS, WHOLE

RADIUS, MIN_SCORE = 75, 0.88
PHOTOS = ("chelsea", "coffee", "astronaut", "rocket", "brick", "grass")


def tiles(size: int, number: int) -> list[Image.Image]:
    """Crops of real pictures that share no pixel, `number` from each."""
    result: list[Image.Image] = []
    for name in PHOTOS:
        picture = Image.fromarray(getattr(data, name)()).convert("RGB")
        corners = [(x, y) for y in range(60, picture.height - size, 2 * size) for x in range(40, 300 - size, 2 * size)]
        crops = [picture.crop((x, y, x + size, y + size)) for x, y in corners]
        result += [crop for crop in crops if np.asarray(crop.convert("L")).std() > 10][:number]
    return result


def sprite(x: int, y: int, side: int, colour: str = "white", ground: str = "black") -> Image.Image:
    image = Image.new("RGB", (64, 64), ground)
    ImageDraw.Draw(image).rectangle((x, y, x + side, y + side), fill=colour)
    return image.resize((32, 32), Image.Resampling.BOX)


def printed(images: list[Image.Image]) -> prints.Prints:
    return prints.concatenate([prints.Prints(np.array([0]), *one, {}) for one in map(_one, images)])


def _one(image: Image.Image) -> tuple[list[bytes], list[bytes], np.ndarray, np.ndarray]:
    by_bytes, by_pixels, luma, colours = prints._print(shards.encode_png(np.asarray(image)))  # type: ignore[misc]
    return [by_bytes], [by_pixels], luma[None], colours[None]


def find(corpus: list[Image.Image], tests: list[Image.Image], threads: int = 1) -> list[Match]:
    index = TestIndex(printed(tests))
    return index.find(printed(corpus), radius=RADIUS, min_score=MIN_SCORE, threads=threads)


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return Image.open(buffer).convert("RGB")


def inner(image: Image.Image, share: float) -> Image.Image:
    """A crop of this share of both sides, off the centre."""
    width, height = round(share * image.width), round(share * image.height)
    return image.crop((1, 3, 1 + width, 3 + height))


EDITS = {
    "copy": lambda image: image.copy(),
    "smaller": lambda image: image.resize((36, 36), Image.Resampling.BICUBIC),
    "larger": lambda image: image.resize((72, 72), Image.Resampling.BICUBIC),
    "jpeg": jpeg,
    "brighter": lambda image: image.point(lambda value: min(255, round(1.1 * value))),
    "darker": lambda image: image.point(lambda value: round(0.9 * value)),
    "crop": lambda image: inner(image, 0.9),
    "mirror": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "gray": lambda image: image.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_every_edited_copy_is_found_and_nothing_else(edit: str) -> None:
    tests = tiles(48, 4)
    assert len(tests) >= 20
    matches = find([EDITS[edit](image) for image in tests], tests)
    assert [(match.train, match.test) for match in matches] == [(i, i) for i in range(len(tests))]
    if edit != "gray":  # gray pictures stay what they are
        assert {match.tier for match in matches} == {"exact-bytes" if edit == "copy" else "near"}


def test_a_test_image_cut_out_of_a_corpus_image_is_found() -> None:
    corpus = tiles(64, 2)
    cut = [image.crop((10, 10, 54, 54)) for image in corpus]  # the centre 70 %
    matches = find(corpus, cut)
    assert {match.train for match in matches if match.train == match.test} == set(range(len(corpus)))
    assert all(match.window == "train-centre70" for match in matches)


def test_same_pixels_in_another_file_are_exact() -> None:
    image = tiles(48, 1)[0]
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    one, other = _one(image), prints._print(buffer.getvalue())
    assert one[0][0] != other[0] and one[1][0] == other[1]


@pytest.mark.parametrize("flip", FLIPS)
def test_a_flipped_code_is_the_code_of_the_flipped_image(flip) -> None:
    thumbnails = np.stack([thumbnail(image) for image in tiles(48, 2)])
    turned = thumbnails.transpose(0, 2, 1) if flip.transpose else thumbnails
    turned = turned[:, :, ::-1] if flip.mirror else turned
    turned = turned[:, ::-1] if flip.flip else turned
    np.testing.assert_array_equal(codes(thumbnails, [(FULL, flip)]), codes(turned.copy(), WHOLE[:1]))


def test_templates_are_told_apart() -> None:
    """White squares on black at other places or sizes, and a coloured one at the same place, are no duplicates."""
    tests = [sprite(8, 8, 12), sprite(36, 14, 16), sprite(22, 40, 8)]
    others = [sprite(30, 30, 24), sprite(4, 44, 18), sprite(8, 8, 12, "orange", "#202020"), sprite(20, 4, 10)]
    assert find(others, tests) == []
    assert [(match.train, match.test) for match in find([jpeg(image) for image in tests], tests)] == [
        (0, 0),
        (1, 1),
        (2, 2),
    ]


def test_tiles_of_one_masked_photograph_are_no_duplicates() -> None:
    """The retina trap of reference/dedup.md: the dark mask decides the code of a quarter."""
    retina = Image.fromarray(data.retina()).convert("RGB")
    quarters = [retina.crop((x, y, x + 700, y + 700)) for x in (0, 705) for y in (0, 705)]
    codes_of = codes(np.stack([thumbnail(image) for image in quarters]), WHOLE)
    distances = np.bitwise_count(codes_of[:, None, 0, None] ^ codes_of[None]).sum(axis=-1).min(axis=-1)
    assert (distances[~np.eye(4, dtype=bool)] <= RADIUS).any()  # they do collide; the check is what rejects them
    assert [(match.train, match.test) for match in find(quarters, quarters)] == [(i, i) for i in range(4)]


def test_flat_images_match_only_exactly() -> None:
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 2, (6, 48, 48, 1), dtype=np.uint8)
    flat = [Image.fromarray((np.full((48, 48, 3), 90 + 8 * i) + noise[i]).astype(np.uint8)) for i in range(6)]
    flat.append(Image.new("RGB", (48, 48), "black"))
    assert [(match.train, match.test) for match in find(flat, flat)] == [(i, i) for i in range(7)]
    assert find(flat[:3], flat[3:]) == []


def test_chunks_and_threads_change_nothing() -> None:
    tests = tiles(48, 3)
    corpus = [EDITS[edit](image) for image, edit in zip(tests, list(EDITS) * 2, strict=False)] + tiles(32, 2)
    whole = find(corpus, tests)
    assert whole and find(corpus, tests, threads=2) == whole
    index, parts = TestIndex(printed(tests)), []
    for start in range(0, len(corpus), 5):
        found = index.find(printed(corpus[start : start + 5]), radius=RADIUS, min_score=MIN_SCORE, threads=2)
        parts += [(match.train + start, match.test, match.score, match.window) for match in found]
    assert parts == [(match.train, match.test, match.score, match.window) for match in whole]


def test_a_chunk_without_a_readable_image_finds_nothing(tmp_path: Path) -> None:
    broken = shards.Example(key="a", split="train", labels=(0,), image=b"no image", ext="png", width=1, height=1)
    shards.write(tmp_path, [broken], name="corpus", class_names=["one"])
    chunk = prints.take(shards.Shards(tmp_path), [0], 2)
    assert chunk.unreadable == {0: "cannot be decoded (no known image format)"}
    assert TestIndex(printed(tiles(48, 1))).find(chunk, radius=RADIUS, min_score=MIN_SCORE, threads=1) == []


def test_views_start_with_the_whole_frame() -> None:
    """The index is cut there: corpus windows are compared with whole test images only."""
    assert TEST_VIEWS[: len(WHOLE)] == WHOLE and TRAIN_VIEWS[0] == WHOLE[0]
