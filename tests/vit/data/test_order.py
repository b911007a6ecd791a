"""The sample order: every example once per epoch, whoever shares the work; and TFDS's order of splits."""

import hashlib

import numpy as np
import pytest

from vit.data.order import batch_ids, hash64, permutation
from vit.data.split import rank_key, rank_order, train_or_val


def first(split: str, keys: list[int] | list[str] | range, count: int) -> list[int | str]:
    return [keys[position] for position in rank_order(split, keys)[:count].tolist()]


def fingerprint(keys: list[int | str]) -> str:
    return hashlib.sha256("\n".join(map(str, keys)).encode()).hexdigest()[:16]


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_workers_share_the_batches_of_one(workers: int) -> None:
    for step in range(12):
        alone, epochs = batch_ids(step, seed=3, size=37, batch_size=16)
        parts = [
            batch_ids(step, seed=3, size=37, batch_size=16, rank=rank, world_size=workers) for rank in range(workers)
        ]
        assert np.concatenate([ids for ids, _ in parts]).tolist() == alone.tolist()
        assert np.concatenate([epoch for _, epoch in parts]).tolist() == epochs.tolist()


def test_an_epoch_shows_every_example_once() -> None:
    seen = np.concatenate([batch_ids(step, seed=0, size=37, batch_size=8)[0] for step in range(37)])
    for epoch, ids in enumerate(seen.reshape(8, 37)):
        assert ids.tolist() == permutation(0, epoch, 37).tolist()
        assert sorted(ids.tolist()) == list(range(37))


def test_a_batch_may_be_larger_than_the_corpus() -> None:
    ids, epochs = batch_ids(0, seed=0, size=5, batch_size=16)
    assert sorted(np.bincount(ids).tolist()) == [3, 3, 3, 3, 4]
    assert epochs.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3]


def test_orders_differ_by_seed_and_epoch() -> None:
    orders = {tuple(permutation(seed, epoch, 50).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_order_never_changes() -> None:
    assert int(hash64(0)) == 0xE220A8397B1DCDAF  # splitmix64's published first output for seed 0
    assert permutation(1, 2, 8).tolist() == [7, 5, 6, 1, 4, 3, 0, 2]


def test_unequal_shares_are_refused() -> None:
    with pytest.raises(
        ValueError, match="batch of 10 cannot be split over 4 workers; nearest batch sizes are 8 and 12"
    ):
        batch_ids(0, seed=0, size=100, batch_size=10, world_size=4)


def test_cifar100_splits_are_tfds() -> None:
    order = first("train", range(50_000), 50_000)
    assert order[:3] == [16399, 1680, 47917]
    assert fingerprint(order[:800]) == "5b25ee0661c3bc4a"
    assert order[45_000:45_003] == [13431, 9237, 17462]
    assert fingerprint(order[45_000:45_200]) == "93377e439662509b"


def test_clevr_splits_are_tfds() -> None:
    order = first("train", [f"CLEVR_train_{number:06d}.png" for number in range(70_000)], 70_000)
    assert order[0] == "CLEVR_train_043876.png"
    assert fingerprint(order[:800]) == "5dc1033102716488"
    assert order[63_000] == "CLEVR_train_035084.png"
    assert fingerprint(order[63_000:63_200]) == "9a9150228251ccef"


def test_patch_camelyon_splits_are_tfds() -> None:
    train = first("train", [f"train_{number}" for number in range(262_144)], 800)
    val = first("validation", [f"valid_{number}" for number in range(32_768)], 200)
    assert (train[0], fingerprint(train)) == ("train_251464", "c1122cb7e413b8b3")
    assert (val[0], fingerprint(val)) == ("valid_3270", "b3998b44bc8423a1")


def test_ranks_and_order_agree() -> None:
    keys = ["b\\c", "a/b", "é", "10", "9"]
    by_rank = sorted(range(len(keys)), key=lambda position: rank_key("test", keys[position]))
    assert rank_order("test", keys).tolist() == by_rank
    assert rank_key("test", "b\\c") == rank_key("test", "b/c")
    assert rank_key("test", 9) == rank_key("test", "9")


def test_every_class_keeps_an_image_to_train_on() -> None:
    labels = np.array([0] * 100 + [1] * 3 + [2] * 2 + [3])
    keys = [f"key-{row}" for row in range(len(labels))]
    splits = np.array(train_or_val(keys, labels, val_fraction=0.1, salt="salt"))
    assert [int((splits[labels == label] == "val").sum()) for label in range(4)] == [10, 1, 1, 0]
    shuffled = np.argsort(hash64(0, np.arange(len(labels))))
    again = train_or_val([keys[row] for row in shuffled], labels[shuffled], val_fraction=0.1, salt="salt")
    assert again == splits[shuffled].tolist()  # the key decides, not its place
