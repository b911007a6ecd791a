"""Whatever bytes come, they give a print or a reason; codes do not depend on how the work is cut up."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from vit.dedup import codes, prints
from vit.dedup.views import FLIPS, FULL, IDENTITY, centre
from vit.dedup.warp import shrink

PHOTO = Image.fromarray(data.coffee()).convert("RGB").resize((300, 200))


def saved(image: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


READABLE = {
    "gray JPEG": saved(PHOTO.convert("L"), "JPEG"),
    "CMYK JPEG": saved(PHOTO.convert("CMYK"), "JPEG"),
    "progressive": saved(PHOTO, "JPEG", progressive=True),
    "16 bits": saved(Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257), "PNG"),
    "palette": saved(PHOTO.quantize(64), "PNG"),
    "alpha": saved(PHOTO.convert("RGBA"), "PNG"),
    "animated": saved(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(90)]),
    "1 x 1": saved(PHOTO.crop((0, 0, 1, 1)), "PNG"),
    "1 x 900 JPEG": saved(PHOTO.resize((1, 900)), "JPEG"),
}
UNREADABLE = {
    "empty": b"",
    "text": b"no image",
    "truncated": saved(PHOTO, "JPEG")[:3000],
    "half a PNG": saved(PHOTO, "PNG")[:9000],
    "bomb": saved(Image.new("1", (10_000, 10_000)), "PNG"),
}


@pytest.mark.parametrize("complete", [False, True])
def test_every_image_has_a_print_or_a_reason(complete: bool) -> None:
    taken = prints.take([*READABLE.values(), *UNREADABLE.values()], complete=complete)
    assert taken.rows.tolist() == list(range(len(READABLE)))
    assert sorted(taken.unreadable) == list(range(len(READABLE), len(READABLE) + len(UNREADABLE)))
    assert all(reason for reason in taken.unreadable.values())
    assert taken.is_flat.tolist() == [name == "1 x 1" for name in READABLE]
    assert taken.thumbnails.shape == (len(READABLE), 128, 128) and codes.base(taken.thumbnails).shape[1] == 32


def test_a_photo_looks_much_the_same_in_every_format() -> None:
    taken = prints.take([READABLE[name] for name in list(READABLE)[:7]], complete=False)
    made = codes.base(taken.thumbnails)
    assert np.bitwise_count(made ^ made[0]).sum(axis=1).max() <= 24


def test_threads_and_batches_give_the_same_prints() -> None:
    files = [saved(PHOTO.rotate(i), "JPEG") for i in range(70)]
    one, many = prints.take(files, complete=False), prints.take(files, complete=False, threads=3)
    joined = prints.concatenate([prints.take(part, complete=False) for part in (files[:3], [b"", *files[3:]])])
    for a, b in zip(one[:-1], many[:-1], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(joined.thumbnails, one.thumbnails)
    assert joined.rows.tolist() == [0, 1, 2, *range(4, 71)] and list(joined.unreadable) == [3]


@pytest.mark.parametrize("flip", FLIPS)
def test_a_flipped_code_is_the_code_of_the_flipped_image(flip) -> None:
    thumbnails = prints.take([saved(PHOTO, "JPEG"), saved(PHOTO.rotate(30), "PNG")], complete=False).thumbnails
    turned = thumbnails.transpose(0, 2, 1) if flip.transpose else thumbnails
    turned = turned[:, :, ::-1] if flip.mirror else turned
    turned = np.ascontiguousarray(turned[:, ::-1] if flip.flip else turned)
    sizes = np.full((2, 2), 128)
    np.testing.assert_array_equal(codes.codes(thumbnails, sizes, [(FULL, flip)])[:, 0], codes.base(turned))


def test_codes_are_the_dct_by_definition() -> None:
    """Beside scipy's DCT of the same 64 x 64 picture; rounding may tip a bit or two."""
    from scipy.fft import dctn

    thumbnail = prints.take([saved(PHOTO, "PNG")], complete=True).thumbnails[0]
    small = thumbnail.reshape(64, 2, 64, 2).mean(axis=(1, 3))
    block = dctn(small)[1:17, 1:17]
    expected = np.packbits(block.ravel() > np.sort(block.ravel())[127])
    assert np.bitwise_count(expected ^ codes.base(thumbnail[None])[0]).sum() <= 2


def test_a_window_is_the_code_of_the_crop() -> None:
    cropped = PHOTO.crop((30, 20, 270, 180))  # 80 %
    whole, part = (prints.take([saved(image, "PNG")], complete=True) for image in (PHOTO, cropped))
    seen = codes.codes(whole.thumbnails, whole.sizes, [(centre(80), IDENTITY)])[0, 0]
    assert np.bitwise_count(seen ^ codes.base(part.thumbnails)[0]).sum() <= 16


@pytest.mark.parametrize("shape", [(128, 128), (256, 384), (200, 300), (129, 500)])
def test_shrinking_is_the_average_over_the_area(shape: tuple[int, int]) -> None:
    image = np.random.Generator(np.random.PCG64(0)).integers(0, 256, shape, dtype=np.uint8)
    result = np.empty((128, 128), np.uint8)
    shrink(image, result)
    weights: list[np.ndarray] = []
    for side in shape:
        for i in range(128):
            overlap = np.minimum((i + 1) * side / 128, np.arange(1, side + 1)) - np.maximum(
                i * side / 128, np.arange(side)
            )
            weights.append(np.clip(overlap, 0, 1))
    down, across = np.array(weights[:128]) * 128 / shape[0], np.array(weights[128:]) * 128 / shape[1]
    assert np.abs(down @ image @ across.T - result).max() <= 0.5 + 1e-9


def test_a_small_image_is_enlarged_smoothly() -> None:
    ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (2, 1))
    result = np.empty((128, 128), np.uint8)
    shrink(ramp, result)
    assert (np.diff(result[0].astype(int)) >= 0).all() and np.diff(result[0].astype(int)).max() <= 2
