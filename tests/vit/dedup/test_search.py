"""Copies are found whatever was done to them, look-alikes are not, and how the work is cut up changes nothing."""

import dataclasses
import io
import pickle

import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage import data

from vit.data.pictures import encode_png
from vit.dedup import edits, prints
from vit.dedup.contrast import SIDE, likeness_to_itself
from vit.dedup.search import CROWD, Match, TestIndex
from vit.dedup.tiers import FAST, THOROUGH, Tier, tier, window
from vit.dedup.views import flip

PHOTOS = ("chelsea", "coffee", "astronaut", "gravel", "grass")
# What the fast tier must find of these ten tiles, whatever the edit; the others are what the benchmark counts.
SURE = ("jpeg50", "half", "to64", "darker", "contrast", "blurred", "mirrored", "rotated90", "centre75", "framed")


def tiles(width: int, height: int, number: int) -> list[Image.Image]:
    """Crops of real pictures that share no pixel, `number` from each."""
    pictures = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in PHOTOS]
    corners = [(20 + (width + 4) * i, 60) for i in range(number)]
    return [picture.crop((x, y, x + width, y + height)) for picture in pictures for x, y in corners]


def jpeg(image: Image.Image, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **({"quality": 90} | settings))
    return buffer.getvalue()


def png(image: Image.Image) -> bytes:
    return encode_png(np.asarray(image))


def find(corpus: list[bytes], tests: list[bytes], tier: Tier = FAST, threads: int = 1) -> list[Match]:
    index = TestIndex(prints.take(tests, complete=True), tier)
    train = prints.take(corpus, complete=False, sizes=index.sizes, threads=threads)
    return index.find(train, corpus.__getitem__)


def pairs(matches: list[Match]) -> list[tuple[int, int]]:
    return [(match.train, match.test) for match in matches]


def sprite(x: int, y: int, side: int, colour: str = "white", ground: str = "black") -> Image.Image:
    image = Image.new("RGB", (64, 64), ground)
    ImageDraw.Draw(image).rectangle((x, y, x + side, y + side), fill=colour)
    return image.resize((32, 32), Image.Resampling.BOX)


@pytest.mark.parametrize("name", SURE)
@pytest.mark.parametrize("is_train_edited", [False, True])
def test_an_edited_copy_is_found_on_either_side_and_nothing_else(name: str, is_train_edited: bool) -> None:
    edit = next(edit for edit in edits.EDITS if edit.name == name)
    draw = np.random.Generator(np.random.PCG64(0))
    originals, copies = [jpeg(image) for image in tiles(160, 120, 2)], []
    copies = [edits.apply(edit, image, draw) for image in tiles(160, 120, 2)]
    corpus, tests = (copies, originals) if is_train_edited else (originals, copies)
    assert pairs(find(corpus, tests)) == [(i, i) for i in range(len(originals))]


@pytest.mark.parametrize("name", ["turned5", "off-centre90", "reposted"])
def test_the_thorough_tier_finds_what_lies_between_the_windows(name: str) -> None:
    edit = next(edit for edit in edits.EDITS if edit.name == name)
    draw = np.random.Generator(np.random.PCG64(0))
    images = tiles(160, 120, 2)
    found = find([jpeg(image) for image in images], [edits.apply(edit, image, draw) for image in images], THOROUGH)
    assert pairs(found) == [(i, i) for i in range(len(images))]
    assert any(match.refined for match in found)


def test_a_match_says_how_it_was_seen() -> None:
    image = tiles(160, 120, 1)[0]
    match = find([jpeg(image)], [jpeg(image.transpose(Image.Transpose.ROTATE_90))])[0]
    assert (match.tier, match.window, match.flip) == ("near", "full", "rotate270")  # undoes it
    centre = image.crop((24, 18, 136, 102))  # 70 %
    assert find([jpeg(image)], [jpeg(centre)])[0].window == "train-centre70"
    assert find([jpeg(centre)], [jpeg(image)])[0].window in ("centre67", "centre75")
    assert window("train-centre70").left == pytest.approx(0.15) and flip("rotate270").transpose


@pytest.mark.parametrize("store", ["jpeg", "png", "webp"])
def test_same_pixels_in_another_file_are_exact(store: str) -> None:
    """A test image's pixels are recognised in a JPEG coded otherwise and in files that lose nothing, and back."""
    first = jpeg(tiles(160, 120, 1)[0])
    pixels = Image.open(io.BytesIO(first)).convert("RGB")
    other = first[:2] + b"\xff\xfe\x00\x07notes" + first[2:]  # a comment
    if store != "jpeg":
        buffer = io.BytesIO()
        pixels.save(buffer, store, lossless=True)
        other = buffer.getvalue()
    for corpus, test in ((first, other), (other, first)):
        assert [match.tier for match in find([corpus], [test])] == ["exact-pixels"]
    assert [match.tier for match in find([first], [first])] == ["exact-bytes"]


def test_flat_images_match_only_exactly_and_say_so() -> None:
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 2, (6, 48, 48, 1), dtype=np.uint8)
    flat = [png(Image.fromarray((np.full((48, 48, 3), 90 + 8 * i) + noise[i]).astype(np.uint8))) for i in range(6)]
    flat += [jpeg(Image.new("RGB", (200, 160), "red")), jpeg(Image.new("RGB", (200, 160), "black"))]
    assert pairs(find(flat, flat)) == [(i, i) for i in range(8)]
    assert find(flat[:3], flat[3:]) == []
    assert sorted(TestIndex(prints.take(flat, complete=True), FAST).notes) == list(range(8))
    assert [m.tier for m in find([jpeg(Image.new("RGB", (200, 160), "red"), progressive=True)], flat)] == [
        "exact-pixels"
    ]


def test_templates_are_told_apart() -> None:
    """White squares on black at other places or sizes, and a coloured one at the same place, are no duplicates."""
    tests = [png(sprite(*place)) for place in ((8, 8, 12), (36, 14, 16), (22, 40, 8))]
    others = [sprite(30, 30, 24), sprite(4, 44, 18), sprite(8, 8, 12, "orange", "#202020"), sprite(20, 4, 10)]
    for hard in (FAST, THOROUGH):
        assert find([png(image) for image in others], tests, hard) == []


def test_tiles_of_one_masked_photograph_are_no_duplicates() -> None:
    """The retina trap (reference/dedup.md 4.4): the dark mask decides the code of a quarter."""
    retina = Image.fromarray(data.retina()).convert("RGB")
    quarters = [jpeg(retina.crop((x, y, x + 700, y + 700))) for x in (0, 705) for y in (0, 705)]
    index = TestIndex(prints.take(quarters, complete=True), THOROUGH)
    candidates = index._candidates(prints.take(quarters, complete=False))
    assert (candidates.train != candidates.test).any()  # they do collide; the check is what rejects them
    for hard in (FAST, THOROUGH):
        assert pairs(find(quarters, quarters, hard)) == [(i, i) for i in range(4)]


def test_courses_of_bricks_are_no_duplicates() -> None:
    """Laid over each other they agree, but no better than each does with itself, moved by a course."""
    wall = Image.fromarray(data.brick()).convert("RGB")
    places = [(120 * column, 120 * row) for row in range(4) for column in range(4)]
    parts = [png(wall.crop((x, y, x + 120, y + 120))) for x, y in places]
    trusting = dataclasses.replace(THOROUGH, min_beyond=0.0, min_beyond_refined=0.0)
    assert len(find(parts, parts, trusting)) > len(parts)
    assert pairs(find(parts, parts, THOROUGH)) == [(i, i) for i in range(len(parts))]


def test_stripes_are_like_themselves_and_noise_is_not() -> None:
    noise = np.random.default_rng(0).integers(-1024, 1024, (SIDE, SIDE)).astype(float)
    assert likeness_to_itself(np.tile(noise[:, :8], 4)) == pytest.approx(1.0)
    assert likeness_to_itself(noise) < 0.3
    assert likeness_to_itself(np.zeros((SIDE, SIDE))) == 0.0


def test_a_crowd_of_look_alikes_is_counted() -> None:
    image = tiles(160, 120, 1)[0]
    crowd = [jpeg(image, quality=quality) for quality in range(30, 31 + CROWD)] + [jpeg(tiles(160, 120, 1)[1])]
    index = TestIndex(prints.take(crowd, complete=True), FAST)
    assert index.templates() == dict.fromkeys(range(CROWD + 1), CROWD)
    assert len(index.find(prints.take([crowd[0]], complete=False), crowd.__getitem__)) == CROWD


def test_batches_threads_and_processes_change_nothing() -> None:
    images = tiles(160, 120, 2)
    draw = np.random.Generator(np.random.PCG64(0))
    tests = [jpeg(image) for image in images]
    corpus = [edits.apply(edit, images[i % 10], draw) for i, edit in enumerate(edits.EDITS)]
    whole = find(corpus, tests)
    assert len(whole) > 15 and find(corpus, tests, threads=3) == whole
    index = pickle.loads(pickle.dumps(TestIndex(prints.take(tests, complete=True), FAST)))
    parts: list[tuple[int, int, float, str]] = []
    for start in range(0, len(corpus), 7):
        batch = corpus[start : start + 7]
        found = index.find(prints.take(batch, complete=False), batch.__getitem__)
        parts += [(match.train + start, match.test, match.score, match.window) for match in found]
    assert parts == [(match.train, match.test, match.score, match.window) for match in whole]


def test_stored_codes_are_enough_to_screen_training_images() -> None:
    from vit.dedup.codes import SETTINGS, base, check_settings

    images = tiles(160, 120, 2)
    index = TestIndex(prints.take([jpeg(image) for image in images], complete=True), FAST)
    mirrored = [jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for image in images]
    stored = base(prints.take(mirrored, complete=False).thumbnails)
    assert stored.shape == (10, 32) and {(i, i) for i in range(10)} <= {pair[:2] for pair in index.screen(stored)}
    check_settings(dict(SETTINGS))
    with pytest.raises(ValueError, match="version 1 rather than 2"):
        check_settings(SETTINGS | {"version": 1})


def test_an_unknown_tier_is_refused() -> None:
    assert tier("fast") is FAST
    with pytest.raises(ValueError, match="no tier 'quick'; choose one of fast, thorough"):
        tier("quick")
