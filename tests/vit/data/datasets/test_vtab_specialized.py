"""PatchCamelyon, EuroSAT, RESISC45 and Diabetic Retinopathy for VTAB: tiny archives come back, traps included."""

import gzip
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.vit.data.datasets.build import picture, tar, write
from tests.vit.data.datasets.vtab_archives import encoded, loaded, pixels, tiny, zipped
from vit.data.datasets.vtab import patch_camelyon, read
from vit.data.datasets.vtab.retinopathy import prepared
from vit.data.pictures import UnreadableImage

CAMELYON = tiny("patch_camelyon", (6, 3, 2))


def camelyon_files(h5py: Any, sizes: dict[str, int], **layout: Any) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    arrays = {split: rng.integers(0, 256, (size, 96, 96, 3), np.uint8) for split, size in sizes.items()}
    files: dict[str, bytes] = {}
    for split, array in arrays.items():
        labels = (np.arange(len(array), dtype=np.uint8) % 2).reshape(-1, 1, 1, 1)
        for name, values in {"x": array, "y": labels}.items():
            buffer = io.BytesIO()
            with h5py.File(buffer, "w") as file:
                file.create_dataset(name, data=values, **layout)
            files[f"camelyonpatch_level_2_split_{split}_{name}.h5.gz"] = gzip.compress(buffer.getvalue(), 1)
    return files, arrays


@pytest.fixture
def h5py() -> Any:
    return pytest.importorskip("h5py", reason="PatchCamelyon takes h5py, which nothing else here needs")


@pytest.mark.parametrize("layout", [{}, {"chunks": True, "compression": "gzip"}])
def test_camelyon_is_lossless_gzipped_or_not(tmp_path: Path, h5py: Any, layout: dict[str, Any]) -> None:
    files, arrays = camelyon_files(h5py, {"train": 6, "valid": 3, "test": 2}, **layout)
    write(tmp_path / "gz", files)
    write(tmp_path / "h5", {name.removesuffix(".gz"): gzip.decompress(data) for name, data in files.items()})
    for name in ("gz", "h5"):
        records = loaded(CAMELYON, tmp_path / name)
        assert sorted(records) == sorted(f"{split}_{n}" for split, array in arrays.items() for n in range(len(array)))
        assert records["valid_1"].split == "val200" and records["test_1"].labels == (1,)
        for key, record in records.items():
            split, _, number = key.partition("_")
            assert record.labels == (int(number) % 2,)
            assert (pixels(record) == arrays[split][int(number)]).all()
    assert read(CAMELYON, tmp_path / "gz").keep_order and not read(CAMELYON, tmp_path / "h5").keep_order
    assert pickle.loads(pickle.dumps(records["test_0"])).read() == records["test_0"].read()


def test_camelyon_images_without_labels_are_refused(tmp_path: Path, h5py: Any) -> None:
    files, _ = camelyon_files(h5py, {"train": 6, "valid": 3, "test": 2})
    more, _ = camelyon_files(h5py, {"train": 5})
    write(tmp_path, files | {name: data for name, data in more.items() if "_y" in name})
    with pytest.raises(ValueError, match=r"train_x.h5.gz holds an array of \(6, 96, 96, 3\) for the 5 labels of"):
        loaded(CAMELYON, tmp_path)
    write(tmp_path, {"camelyonpatch_level_2_split_train_y.h5.gz": gzip.compress(b"no HDF5")})
    patch_camelyon._array.cache_clear()
    with pytest.raises(ValueError, match=r"train_y.h5.gz is no HDF5 file with an array y"):
        loaded(CAMELYON, tmp_path)


def test_camelyon_without_h5py_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    patch_camelyon._array.cache_clear()
    write(tmp_path, {archive.name: gzip.compress(b"") for archive in patch_camelyon.ARCHIVES})
    with pytest.raises(ValueError, match="takes h5py to read: pip install h5py"):
        loaded(CAMELYON, tmp_path)


def eurosat_files() -> dict[str, bytes]:
    names = [f"{name}/{name}_{number}.jpg" for name in ("Forest", "SeaLake") for number in range(1, 6)]
    return {f"2750/{name}": picture(number) for number, name in enumerate(names)}


def test_eurosat_doubles_the_class_in_its_keys(tmp_path: Path) -> None:
    files = eurosat_files() | {"2750/README.txt": b"", "__MACOSX/2750/Forest/._Forest_1.jpg": b""}
    write(tmp_path / "eurosat", {"EuroSAT.zip": zipped(files)})
    write(tmp_path / "folder", files)
    for place in (tmp_path, tmp_path / "folder"):
        records = loaded(tiny("eurosat", (6, 2, 2)), place)
        assert sorted(records) == sorted(f"{name.split('/')[1]}_{name.split('/')[2]}" for name in eurosat_files())
        assert records["SeaLake_SeaLake_3.jpg"].labels == (9,) and records["Forest_Forest_3.jpg"].labels == (1,)
        assert records["SeaLake_SeaLake_3.jpg"].read() == files["2750/SeaLake/SeaLake_3.jpg"]


def test_an_archive_whose_names_lead_outside_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"EuroSAT.zip": zipped(eurosat_files() | {"../Forest/Forest_9.jpg": b""})})
    with pytest.raises(ValueError, match=r"'../Forest/Forest_9.jpg', which leads out of the archive"):
        loaded(tiny("eurosat", (6, 2, 2)), tmp_path)


def test_resisc45_is_read_from_its_folder_or_a_zip_but_not_from_the_rar(tmp_path: Path) -> None:
    names = [f"{name}/{name}_{number:03d}.jpg" for name in ("airplane", "wetland") for number in range(1, 6)]
    files = {f"NWPU-RESISC45/{name}": picture(number) for number, name in enumerate(names)}
    task = tiny("resisc45", (6, 2, 2))
    write(tmp_path / "rar", {"NWPU-RESISC45.rar": b"Rar!"})
    with pytest.raises(ValueError, match=r"NWPU-RESISC45.rar is a RAR archive, .* unpack it there"):
        loaded(task, tmp_path / "rar")
    write(tmp_path / "rar", files)
    write(tmp_path / "zip", {"NWPU-RESISC45.zip": zipped(files)})
    for place in (tmp_path / "rar", tmp_path / "zip"):
        records = loaded(task, place)
        assert len(records) == 10 and records["wetland_wetland_001.jpg"].labels == (44,)
        assert records["airplane_airplane_002.jpg"].read() == picture(1)


def eye(radius: int = 400, side: int = 1000) -> np.ndarray:
    """A disc with a fine pattern on black, as a camera takes a retina."""
    y, x = np.mgrid[:side, :side] - side / 2
    inside = x**2 + y**2 < radius**2
    return np.where(inside[..., None], 120 + 40 * np.sin(x / 9)[..., None] + np.array([40.0, 0, -60]), 0).astype(
        np.uint8
    )


def test_eyes_are_prepared_as_the_winner_of_the_competition_did() -> None:
    made = cv2.imdecode(np.frombuffer(prepared(encoded(eye(), "JPEG", quality=95)), np.uint8), cv2.IMREAD_COLOR)
    assert made.shape == (540, 540, 3), "a radius of 300 pixels, cropped to 90 %"
    corners = made[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    assert np.abs(corners - 128).max() <= 3, "grey beyond the mask"
    assert made[270, 100:440].std() > 40, "the pattern is amplified"
    assert abs(float(made.mean()) - 128) < 4, "the local average is gone"
    small = cv2.imdecode(np.frombuffer(prepared(encoded(eye(100, 300), "JPEG")), np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (540, 540, 3)
    black = cv2.imdecode(np.frombuffer(prepared(encoded(np.zeros((90, 80, 3), np.uint8), "JPEG")), np.uint8), 1)
    assert black.shape == (540, 533, 3), "without an eye the height counts as its diameter"
    for broken in (b"", b"no image"):
        with pytest.raises(UnreadableImage, match="cannot be decoded"):
            prepared(broken)


TRAIN_LABELS = b"image,level\n10_left,0\n10_right,4\n13_left,2\n"
SOLUTION = b"image,level,Usage\n1_left,1,Public\n1_right,3,Private\n2_left,0,Private\n"
EYES = tiny("diabetic_retinopathy", (3, 1, 2))


def eyes(*names: str) -> dict[str, bytes]:
    return {f"{name}.jpeg": encoded(eye(20 + len(name), 64), "JPEG") for name in names}


def eye_archives(directory: Path, volumes: int) -> Path:
    """As Kaggle publishes them: zips cut into volumes."""
    train = eyes("train/10_left", "train/10_right", "train/13_left")
    test = eyes("test/1_left", "test/1_right", "test/2_left", "test/3_left")
    write(directory, {"trainLabels.csv.zip": zipped({"trainLabels.csv": TRAIN_LABELS})})
    write(directory, {"retinopathy_solution.csv": SOLUTION})
    for name, files in {"train": train, "test": test}.items():
        data = zipped(files)
        size = -(-len(data) // volumes)
        parts = {f"{name}.zip.{n + 1:03d}": data[n * size : (n + 1) * size] for n in range(volumes)}
        write(directory, parts)
    return directory


@pytest.mark.parametrize("volumes", [1, 5])
def test_eyes_come_from_the_volumes_that_kaggle_publishes(tmp_path: Path, volumes: int) -> None:
    eye_archives(tmp_path, volumes)
    records = loaded(EYES, tmp_path)
    assert {key: (record.split, record.labels[0]) for key, record in records.items()} == {
        "10_left": ("train800", 0),
        "10_right": ("train800", 4),
        "13_left": ("train800", 2),
        "1_left": ("val200", 1),
        "1_right": ("test", 3),
        "2_left": ("test", 0),
    }
    expected = prepared(eyes("test/1_right")["test/1_right.jpeg"])
    assert records["1_right"].read() == expected
    assert pickle.loads(pickle.dumps(records["1_right"])).read() == expected
    write(tmp_path / "unpacked", eyes("train/10_left", "train/10_right", "train/13_left"))
    write(tmp_path / "unpacked", eyes("test/1_left", "test/1_right", "test/2_left"))
    write(tmp_path / "unpacked", {"trainLabels.csv": TRAIN_LABELS, "retinopathy_solution.csv": SOLUTION})
    assert loaded(EYES, tmp_path / "unpacked")["1_right"].read() == expected


def test_a_missing_volume_is_named(tmp_path: Path) -> None:
    eye_archives(tmp_path, 5)
    (tmp_path / "train.zip.005").rename(tmp_path / "kept")
    with pytest.raises(
        ValueError, match=r"\(4 volumes\) are no whole zip .* \(the fifth of train.zip is easily overlooked\)"
    ):
        loaded(EYES, tmp_path)
    (tmp_path / "kept").rename(tmp_path / "train.zip.005")
    (tmp_path / "train.zip.003").unlink()
    with pytest.raises(ValueError, match=r"train.zip.003 is missing, though .*train.zip.005 is there"):
        loaded(EYES, tmp_path)


def test_eyes_without_label_or_image_are_named(tmp_path: Path) -> None:
    eye_archives(tmp_path, 1)
    write(tmp_path, {"retinopathy_solution.csv": SOLUTION + b"9_left,0,Private\n"})
    with pytest.raises(ValueError, match=r"lack 1 of 3 images, first 9_left.jpeg"):
        loaded(EYES, tmp_path)
    for table in (b"image,level\n1_left,1\n", b"image,level,Usage\n1_left,7,Public\n", b""):
        write(tmp_path, {"retinopathy_solution.csv": table})
        with pytest.raises(ValueError, match=r"retinopathy_solution.csv is no table of image and level"):
            loaded(EYES, tmp_path)


def test_a_gzipped_folder_keeps_the_order_of_the_archive(tmp_path: Path) -> None:
    names = [f"NWPU-RESISC45/airplane/airplane_{number:03d}.jpg" for number in range(10, 0, -1)]
    write(tmp_path, {"NWPU-RESISC45.tar.gz": tar({name: picture(n) for n, name in enumerate(names)}, "w:gz")})
    source = read(tiny("resisc45", (6, 2, 2)), tmp_path)
    train = [record.key for record in source.records if record.split == "train800"]
    assert source.keep_order and train == sorted(train, reverse=True)
