"""Files that are damaged, truncated, of another kind or hostile: one sentence, at once, and nothing runs."""

import argparse
import io
import json
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import vit.models
from tests.vit.models.bad_files import BAD, plain_pickle
from tests.vit.models.weights_toys import filled
from tests.vit.models.weights_toys import vit as toy
from vit.models.weights import archive, files, npz
from vit.models.weights.checkpoint import BadCheckpoint


@pytest.mark.parametrize(("make", "sentence"), BAD.items(), ids=[make.__name__ for make in BAD])
def test_bad_files_give_one_sentence_at_once_and_run_nothing(
    make: Callable[[Path], object], sentence: str, tmp_path: Path
) -> None:
    make(path := tmp_path / "file")
    started = time.process_time()
    with pytest.raises(BadCheckpoint, match=sentence) as caught:
        vit.models.load(path)
    assert time.process_time() - started < 1
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_the_hostile_pickle_would_have_run(tmp_path: Path) -> None:
    """Else the test above proves nothing."""
    plain_pickle(path := tmp_path / "file")
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").is_dir()


def test_names_of_no_format_are_shown(tmp_path: Path) -> None:
    files.write_npz(path := tmp_path / "a.npz", {"conv1": torch.zeros(3)})
    with pytest.raises(BadCheckpoint, match=r"names of no known format .* begin with conv1"):
        vit.models.load(path)


def test_archive_reads_what_numpy_writes_and_the_other_way(tmp_path: Path) -> None:
    arrays = {
        "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">f4"),
        "scalar": np.array(3, dtype=np.int64),
        "none": np.zeros((0, 4), dtype=np.float16),
        "bool": np.array([True, False]),
    }
    for save in (np.savez, np.savez_compressed):
        with (tmp_path / "theirs.npz").open("wb") as file:
            save(file, **arrays)
        read = archive.read(tmp_path / "theirs.npz")[0]
        assert read.keys() == arrays.keys()
        assert all(np.array_equal(read[name].numpy(), array) for name, array in arrays.items())
    files.write_npz(tmp_path / "ours.npz", read)
    ours = np.load(tmp_path / "ours.npz")
    assert all(np.array_equal(ours[name], array) for name, array in arrays.items())


def test_a_header_whose_length_spells_pk_is_still_safetensors(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    length = int.from_bytes(b"PK", "little")
    data = struct.pack("<2f", 1, 2)
    (path := tmp_path / "a").write_bytes(struct.pack("<Q", length) + header.ljust(length) + data)
    assert path.read_bytes().startswith(b"PK")
    assert files.read(path).kind == "safetensors" and files.read_tensors(path)["x"].tolist() == [1, 2]


def test_bfloat16_is_stored_as_jax_does(tmp_path: Path) -> None:
    tensor = torch.randn(5, 3).bfloat16()
    files.write_npz(path := tmp_path / "a.npz", {"x": tensor})
    assert np.load(path)["x"].dtype == np.dtype("V2")
    assert torch.equal(archive.read(path)[0]["x"], tensor)


def test_equal_tensors_give_equal_bytes_whatever_the_order_and_the_clock(tmp_path: Path) -> None:
    tensors = npz.emit(filled(toy(), 3))
    files.write_npz(tmp_path / "a.npz", tensors)
    files.write_npz(tmp_path / "b.npz", dict(reversed(tensors.items())))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), files.replacing(tmp_path / "a") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("legacy", [False, True])
def test_training_checkpoints_are_unwrapped_with_notes(legacy: bool, tmp_path: Path) -> None:
    checkpoint = filled(toy(gelu="erf"), 3)
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in checkpoint.state.items()}
    average = {name: tensor + 1 for name, tensor in checkpoint.state.items()}
    everything = {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
        "model_ema": average,
        "model": wrapped,
    }
    torch.save(everything, path := tmp_path / "last.pth", _use_new_zipfile_serialization=not legacy)
    found = vit.models.inspect(path, num_heads=2)
    assert found.config == checkpoint.config
    assert all(torch.equal(tensor, found.state[name]) for name, tensor in checkpoint.state.items())
    notes = "; ".join(found.notes)
    assert "taken from entry 'model'; left out: epoch, args, optimizer, model_ema" in notes
    assert "weights='model_ema' would load the averaged weights" in notes
    assert "'module.' of DistributedDataParallel" in notes and "'_orig_mod.' of torch.compile" in notes
    averaged = vit.models.inspect(path, num_heads=2, weights="model_ema")
    assert torch.equal(averaged.state["norm.bias"], average["norm.bias"])
    with pytest.raises(BadCheckpoint, match="no entry 'ema'; its entries are epoch, args, optimizer, model_ema, model"):
        vit.models.inspect(path, weights="ema")


def test_pickles_of_other_values_stay_readable_by_nobody(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pickle.dump({"x": Path("/")}, buffer)
    (path := tmp_path / "a.pt").write_bytes(buffer.getvalue())
    with pytest.raises(BadCheckpoint, match=r"asks for pathlib\.PosixPath|no whole PyTorch file"):
        files.read(path)
