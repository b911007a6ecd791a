"""What a rank announces to the cache of its node: the shards it will read, all of them, no others."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from tests.recipes import augmentation
from vit.data import loader
from vit.data.loader import training_batches
from vit.data.order import Order, OrderConfig, samples_at
from vit.data.shards import Shards, png_example, write

SIZE, BATCH, WINDOW = 96, 8, 16


class Watched(Shards):
    """Remembers what is announced and what is read."""

    announced: list[list[str]]
    opened: list[str]

    def prefetch(self, rows: Iterable[int]) -> None:
        self.announced.append([self.shard_of(row) for row in rows])

    def read(self, row: int, *, verify: bool | None = None) -> bytes:
        self.opened.append(self.shard_of(row))
        return super().read(row, verify=verify)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, 8, 8, 3), dtype=np.uint8)
    examples = [png_example(f"image-{n}", "train", 0, noise[n]) for n in range(SIZE)]
    write(out, examples, name="toy", class_names=["one"], shard_bytes=3_000)
    assert len(Shards(out).shard_names) == SIZE // 2
    return out


def watch(corpus: Path, rank: int, world_size: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setenv("VITFLOW_LOADER_WORKERS", "0")
    monkeypatch.setattr(loader, "rank", lambda: rank)
    monkeypatch.setattr(loader, "world_size", lambda: world_size)
    shards = Watched(corpus)
    shards.announced, shards.opened = [], []
    config = augmentation(order=OrderConfig(window=WINDOW, repeats=1, balance=0.0))
    stream = training_batches(shards, resolution=8, config=config, batch_size=BATCH, seed=3, first_step=0)
    for _ in range(steps):
        next(stream)
    stream.close()
    return shards


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_a_rank_announces_what_it_reads_and_no_more(
    corpus: Path, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 2 * SIZE // BATCH
    ranks = [watch(corpus, rank, world_size, steps, monkeypatch) for rank in range(world_size)]
    plain = Shards(corpus)
    config = OrderConfig(window=WINDOW, repeats=1, balance=0.0)
    order = Order(seed=3, config=config, labels=plain.labels, shard_sizes=plain.shard_sizes)
    per_rank, horizon = BATCH // world_size, max(WINDOW, loader.AHEAD * BATCH)
    for rank, shards in enumerate(ranks):
        announced = {name for names in shards.announced for name in names}
        assert set(shards.opened) <= announced
        places = np.arange(2 * horizon)
        own = [place for place in places if place % BATCH // per_rank == rank]
        assert shards.announced[0] == [plain.shard_of(row) for row in samples_at(order, np.array(own)).ids]
    first = [set(shards.announced[0]) for shards in ranks]
    everything = {plain.shard_of(row) for row in samples_at(order, np.arange(2 * horizon)).ids}
    assert set.union(*first) == everything
    if world_size >= 4:  # of the shards of a window a rank reads a part only
        assert all(len(names) < 0.7 * len(everything) for names in first)


def test_a_batch_that_cannot_be_shared_is_still_a_sentence(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="a global batch of 8 cannot be split over 3 workers"):
        watch(corpus, 0, 3, 1, monkeypatch)
