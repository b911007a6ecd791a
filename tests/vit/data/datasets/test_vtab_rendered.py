"""dSprites and SmallNORB: labels from the latents, pixels as published, damage named."""

import gzip
import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.vit.data.datasets.build import write
from tests.vit.data.datasets.vtab_archives import labels, loaded, norb, pixels, tiny
from vit.data.datasets.archives import plain
from vit.data.datasets.vtab import dsprites, read, smallnorb

SPRITES = (1, 1, 1, 40, 32, 2)


def sprites_file(directory: Path, monkeypatch: pytest.MonkeyPatch, latents: np.ndarray | None = None) -> np.ndarray:
    """The published layout, with two vertical positions and one shape; `metadata` is a pickle that must not be read."""
    monkeypatch.setattr(dsprites, "FACTORS", SPRITES)
    total = int(np.prod(SPRITES))
    images = (np.random.default_rng(0).integers(0, 9, (total, 64, 64)) == 0).astype(np.uint8)
    grid = np.stack(np.unravel_index(np.arange(total), SPRITES), axis=1)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        imgs=images,
        latents_values=grid.astype(np.float64),
        latents_classes=grid if latents is None else latents,
        metadata=np.array({"secret": Bomb()}, dtype=object),
    )
    path = write(directory, {dsprites.ARCHIVE.name: buffer.getvalue()}) / dsprites.ARCHIVE.name
    monkeypatch.setattr(dsprites, "GIT_BLOB", dsprites._git_blob(path))
    return images


class Bomb:
    """Goes off when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exit, ("a pickle was read",)


def test_sprites_are_white_on_black_and_binned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = sprites_file(tmp_path / "dsprites", monkeypatch)
    places = read(tiny("dsprites_loc", (2048, 256, 256)), tmp_path)
    turns = read(tiny("dsprites_ori", (2048, 256, 256)), tmp_path)
    records = {record.key: record for record in places.records}
    assert len(records) == 800 + 200 + 256 and len(places.class_names) == len(turns.class_names) == 16
    for key in sorted(records)[::50]:
        expected = np.repeat(images[int(key)][..., None] * 255, 3, axis=2)
        assert (pixels(records[key]) == expected).all()
    turned = {split: labels(turns, split) for split in ("train800", "test")}
    for split, found in turned.items():
        for key, label in found.items():
            number = int(key)
            assert label == int((number // 64) / 2.5) and records[key].split == split
            assert records[key].labels == ((number // 2 % 32) // 2,)
    some = next(iter(records.values()))
    assert pickle.loads(pickle.dumps(some)).read() == some.read()


def test_sprites_drawn_anew_are_no_vtab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sprites_file(tmp_path, monkeypatch)
    task = tiny("dsprites_loc", (2048, 256, 256))
    monkeypatch.setattr(dsprites, "GIT_BLOB", "d98996d3f8ee1550e06b9d4ed78d0beb478910d5")
    with pytest.raises(ValueError, match="on sprites drawn anew a score is no VTAB score"):
        loaded(task, tmp_path)
    sprites_file(tmp_path, monkeypatch, latents=np.zeros((2560, 6), np.int64))
    with pytest.raises(ValueError, match="has latents other than all combinations in order"):
        loaded(task, tmp_path)


def norb_files(directory: Path, codes: np.ndarray, packed: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {split: rng.integers(0, 256, (len(codes), 2, 96, 96), np.uint8) for split in smallnorb.STEMS}
    for split, stem in smallnorb.STEMS.items():
        info = codes if split == "train" else codes[::-1].copy()
        for kind, array in {"dat": arrays[split], "info": info}.items():
            data, name = norb(array), f"{stem}-{kind}.mat"
            write(directory, {f"{name}.gz": gzip.compress(data, 1)} if packed else {name: data})
    return arrays


# instance, elevation, azimuth, lighting
CODES = np.array([[4, row % 9, 2 * (row % 18), row % 6] for row in range(18)], np.int32)


@pytest.mark.parametrize("packed", [True, False])
def test_norb_shows_the_left_image_and_halves_the_azimuth(tmp_path: Path, packed: bool) -> None:
    arrays = norb_files(tmp_path, CODES, packed)
    round_ = loaded(tiny("smallnorb_azi", (18, 9, 9)), tmp_path)
    high = loaded(tiny("smallnorb_ele", (18, 9, 9)), tmp_path)
    for row in range(18):
        train, test = f"train_{row:05d}", f"test_{17 - row:05d}"
        for key in (train, test):
            assert round_[key].labels == (row,) and high[key].labels == (row % 9,)
        grey = arrays["train"][row, 0]
        assert (pixels(round_[train]) == np.repeat(grey[..., None], 3, axis=2)).all()
    assert {record.split for key, record in round_.items() if key.startswith("test")} == {"val200", "test"}
    assert {record.split for key, record in round_.items() if key.startswith("train")} == {"train800"}


def test_norb_that_is_damaged_or_has_other_codes_is_named(tmp_path: Path) -> None:
    task = tiny("smallnorb_azi", (18, 9, 9))
    norb_files(tmp_path, CODES + np.array([0, 0, 1, 0], np.int32), packed=True)
    with pytest.raises(ValueError, match=r"training-info.mat.gz is not the published table \(an azimuth is odd\)"):
        loaded(task, tmp_path)
    norb_files(tmp_path, CODES * np.array([1, 1, 2, 1], np.int32), packed=True)
    with pytest.raises(ValueError, match=r"not the published table \(labels are 0 … 34\)"):
        loaded(task, tmp_path)
    norb_files(tmp_path / "plain", CODES, packed=False)
    path = tmp_path / "plain" / f"{smallnorb.STEMS['test']}-dat.mat"
    data = path.read_bytes()
    for broken in (data[:-1], b"", b"MATLAB 5.0 MAT-file, Platform: GLNXA64", data[:12]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"testing-dat.mat is no whole NORB matrix"):
            loaded(task, tmp_path / "plain")
    write(tmp_path, {"small.mat": norb(np.arange(3, dtype=np.int32))})
    assert smallnorb.matrix(plain(tmp_path / "small.mat")).tolist() == [0, 1, 2], "three sizes, though one dimension"
