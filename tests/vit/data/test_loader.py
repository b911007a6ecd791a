"""Batches: the same whoever makes them, in the order of vit.data.order, on time, leaving nothing behind."""

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from tests.recipes import augmentation
from vit.data import loader, workers
from vit.data.augment import AugmentConfig
from vit.data.loader import evaluation_batches, to_input, training_batches, worker_count
from vit.data.mixing import MixConfig
from vit.data.order import Order, OrderConfig, batch
from vit.data.shards import BadShard, Example, Shards, UnreadableImage, encode_png, png_example, write

torch.set_num_threads(1)
SIZE, BATCH = 22, 8
RANDOM = augmentation(crop_area=0.3, flip=True, layers=1, magnitude=9)
STREAMED = dataclasses.replace(RANDOM, order=OrderConfig(window=5, repeats=2, balance=0.5))
MIXED = dataclasses.replace(RANDOM, mix=MixConfig(mixup=0.5, cutmix=0.5, erasing=0.5))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """The label of an image is its id."""
    directory = tmp_path_factory.mktemp("shards")
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (SIZE, 20, 24, 3), dtype=np.uint8)
    examples = [png_example(f"key-{i}", "train", i, noise[i]) for i in range(SIZE)]
    write(directory, examples, name="toy", class_names=[f"class-{i}" for i in range(SIZE)], shard_bytes=12_000)
    return Shards(directory)


def take(
    shards: Shards, config: AugmentConfig, steps: range, *, resolution: int = 12, seed: int = 3
) -> list[tuple[Tensor, Tensor]]:
    stream = training_batches(
        shards, resolution=resolution, config=config, batch_size=BATCH, seed=seed, first_step=steps.start
    )
    found = list(itertools.islice(stream, len(steps)))
    stream.close()
    return found


def are_equal(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return all(torch.equal(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True))


@pytest.mark.parametrize("config", [RANDOM, STREAMED], ids=["plain", "streamed"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_any_number_of_threads_and_any_stop_give_the_order(
    shards: Shards, config: AugmentConfig, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITFLOW_LOADER_WORKERS", str(count))
    assert len(shards.shard_names) > 2
    order = Order(seed=3, config=config.order, labels=shards.labels, shard_sizes=shards.shard_sizes)
    whole = take(shards, config, range(9))
    assert [labels.tolist() for _, labels in whole] == [
        batch(order, step, batch_size=BATCH).ids.tolist() for step in range(9)
    ]
    for stop in (1, 4):
        assert are_equal(take(shards, config, range(stop, 9)), whole[stop:])
    monkeypatch.setenv("VITFLOW_LOADER_WORKERS", "0")
    assert are_equal(take(shards, config, range(9)), whole)


def test_processes_make_the_same_batches(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = take(shards, MIXED, range(7))
    monkeypatch.setenv("VITFLOW_LOADER", "processes")
    monkeypatch.setenv("VITFLOW_LOADER_WORKERS", "3")
    assert are_equal(take(shards, MIXED, range(7)), expected)
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_seed_and_epoch_change_the_views(shards: Shards) -> None:
    first, again, other = (
        take(shards, RANDOM, range(1)),
        take(shards, RANDOM, range(1)),
        take(shards, RANDOM, range(1), seed=4),
    )
    assert are_equal(first, again) and not torch.equal(first[0][0], other[0][0])
    plain = augmentation(crop_area=0.3, flip=True)
    order = Order(seed=3, config=plain.order, labels=shards.labels, shard_sizes=shards.shard_sizes)
    views = {
        (int(i), int(e)): image
        for step, (images, _) in enumerate(take(shards, plain, range(6)))
        for image, i, e in zip(images, *batch(order, step, batch_size=BATCH)[:2], strict=True)
    }
    twice = [i for i, epoch in views if epoch == 1 and (i, 0) in views]
    assert len(twice) > 15 and not any(torch.equal(views[i, 0], views[i, 1]) for i in twice)


def test_repeats_differ(shards: Shards) -> None:
    order = OrderConfig(window=0, repeats=2, balance=0.0)
    config = augmentation(crop_area=0.3, flip=True, order=order)
    images, labels = take(shards, config, range(1))[0]
    assert labels[0] == labels[1] and not torch.equal(images[0], images[1])


def test_mixed_batches_have_soft_targets(shards: Shards) -> None:
    images, targets = take(shards, MIXED, range(1))[0]
    assert targets.shape == (BATCH, SIZE) and torch.allclose(targets.sum(1), torch.ones(BATCH))
    assert images.dtype == torch.float32 and images.shape == (BATCH, 3, 12, 12)


def test_several_labels_are_targets_of_ones(tmp_path: Path) -> None:
    image = encode_png(np.zeros((4, 4, 3), np.uint8))
    sets = [(0, 2), (1,), ()]
    examples = [
        Example(key=f"k{i}", split="train", labels=labels, image=image, ext="png", width=4, height=4)
        for i, labels in enumerate(sets)
    ]
    write(tmp_path, examples, name="toy", class_names=["a", "b", "c"])
    shards = Shards(tmp_path)
    shards.multi_label = True  # the writer of sources puts it into the manifest
    stream = training_batches(shards, resolution=4, config=augmentation(), batch_size=3, seed=0, first_step=0)
    _, targets = next(stream)
    stream.close()
    assert sorted(targets.tolist()) == [[0, 0, 0], [0, 1, 0], [1, 0, 1]]


def test_input_is_scaled_to_minus_one_to_one() -> None:
    pixels = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
    assert to_input(pixels).flatten().tolist() == pytest.approx([-1, -0.6, 1])


def test_evaluation_shows_the_rows_in_order(shards: Shards) -> None:
    found = list(evaluation_batches(shards, range(1, SIZE, 3), resolution=12, view="square", batch_size=3))
    assert torch.cat([labels for _, labels in found]).tolist() == list(range(1, SIZE, 3))
    assert [len(images) for images, _ in found] == [3, 3, 1]


def test_waiting_is_counted(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    real = workers.training_view

    def slow(*args: object) -> object:
        time.sleep(0.01)
        return real(*args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(workers, "training_view", slow)
    for count in ("0", "1"):
        monkeypatch.setenv("VITFLOW_LOADER_WORKERS", count)
        stream = training_batches(shards, resolution=12, config=RANDOM, batch_size=BATCH, seed=0, first_step=0)
        for _ in range(3):
            next(stream)
        assert 0.2 < stream.waited < 2
        if count == "1":
            time.sleep(0.5)  # time to get ahead
            before = stream.waited
            next(stream)
            assert stream.waited - before < 0.05
        stream.close()


@pytest.mark.parametrize("kind", loader.KINDS)
def test_unreadable_images_are_named(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_LOADER", kind)
    image = encode_png(np.zeros((4, 4, 3), np.uint8))
    bad = Example(key="bad", split="train", labels=(0,), image=image[:30], ext="png", width=4, height=4)
    write(tmp_path, [dataclasses.replace(bad, key="good", image=image), bad], name="toy", class_names=["a"])
    stream = training_batches(Shards(tmp_path), resolution=4, config=augmentation(), batch_size=2, seed=0, first_step=0)
    with pytest.raises(UnreadableImage, match=r"image bad in .*toy-00000.tar: cannot be decoded"):
        next(stream)
    stream.close()


def test_memory_stays_flat_over_20_epochs(shards: Shards) -> None:
    stream = training_batches(shards, resolution=160, config=MIXED, batch_size=BATCH, seed=0, first_step=0)
    epoch, used = -(-SIZE // BATCH), list[int]()
    for _ in range(20):
        for _ in range(epoch):
            next(stream)
        used.append(psutil.Process().memory_info().rss)
    stream.close()
    # An allocator takes and gives back some MB; keeping one batch of each epoch would be 30 MB in the ten between.
    assert np.median(used[15:]) - np.median(used[5:10]) < 15_000_000


def test_a_killed_trainer_takes_its_loader_with_it(shards: Shards, tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import os, signal, sys
        from pathlib import Path
        from tests.recipes import augmentation
        from vit.data.loader import training_batches
        from vit.data.shards import Shards
        import psutil
        if __name__ == "__main__":
            shards = Shards(Path({str(shards.store.uri)!r}))
            stream = training_batches(
                shards, resolution=12, config=augmentation(), batch_size=4, seed=0, first_step=0
            )
            next(stream)
            print(*(child.pid for child in psutil.Process().children()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    path = tmp_path / "trainer.py"
    path.write_text(script)
    environment = os.environ | {
        "VITFLOW_LOADER": "processes",
        "VITFLOW_LOADER_WORKERS": "2",
        "PYTHONPATH": str(Path.cwd()),
    }
    run = subprocess.run([sys.executable, path], capture_output=True, text=True, env=environment, check=False)
    children = [int(pid) for pid in run.stdout.split()]
    assert len(children) >= 2, run.stderr
    end = time.monotonic() + 15
    while any(psutil.pid_exists(pid) for pid in children) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pid in children if psutil.pid_exists(pid)]


@pytest.mark.parametrize(("name", "value"), [("VITFLOW_LOADER", "fibers"), ("VITFLOW_LOADER_WORKERS", "-1")])
def test_bad_environment_is_refused(shards: Shards, name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} is '{value}'"):
        take(shards, RANDOM, range(1))


def test_one_thread_beside_a_network_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITFLOW_LOADER_WORKERS", raising=False)
    monkeypatch.setattr(loader, "device", lambda: torch.device("cpu"))
    assert worker_count() == 1


@pytest.mark.parametrize(
    ("kind", "cores", "ranks", "expected"),
    [
        ("threads", 16, 1, 8),
        ("threads", 16, 4, 4),
        ("processes", 16, 1, 16),
        ("processes", 16, 4, 4),
        ("threads", 2, 8, 1),
    ],
)
def test_a_share_of_the_cores_beside_a_gpu(
    kind: str, cores: int, ranks: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VITFLOW_LOADER_WORKERS", raising=False)
    monkeypatch.setattr(loader, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setenv("VITFLOW_LOADER", kind)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert worker_count() == expected


def test_a_flipped_bit_never_reaches_the_network(shards: Shards, tmp_path: Path) -> None:
    """An image that is shown for the first time is compared with its digest; how it decodes does not matter."""
    shutil.copytree(Path(shards.uri), tmp_path / "damaged")
    damaged = Shards(tmp_path / "damaged")
    shard, offset = damaged.place(3)
    data = bytearray((tmp_path / "damaged" / shard).read_bytes())
    data[offset + 100] ^= 1
    (tmp_path / "damaged" / shard).write_bytes(data)
    with pytest.raises(BadShard, match=rf"{shard}: image key-3 is damaged"):
        take(damaged, RANDOM, range(SIZE // BATCH + 1))
