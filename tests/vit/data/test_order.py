"""The sample order: every example once per epoch, whoever shares the work; and TFDS's order of splits."""

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vit.data.order import (
    Order,
    OrderConfig,
    balanced,
    batch,
    batch_ids,
    epoch_ids,
    hash64,
    permutation,
    samples_at,
    two_level,
)
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


def corpus_order(
    shard_sizes: tuple[int, ...] = (7, 1, 12, 5, 12),
    *,
    seed: int = 0,
    window: int = 0,
    repeats: int = 1,
    balance: float = 0,
) -> Order:
    """Classes of 1, 2, 3, … images, one after the other."""
    size = sum(shard_sizes)
    labels = np.repeat(np.arange(size), np.arange(1, size + 1))[:size]
    return Order(
        seed=seed,
        config=OrderConfig(window=window, repeats=repeats, balance=balance),
        labels=labels,
        shard_sizes=np.array(shard_sizes),
    )


orders = st.builds(
    corpus_order,
    st.lists(st.integers(1, 9), min_size=1, max_size=6).map(tuple),
    seed=st.integers(0, 2**40),
    window=st.sampled_from([0, 1, 3, 8, 100]),
    repeats=st.sampled_from([1, 2, 3]),
    balance=st.sampled_from([0.0, 0.5, 1.0]),
)


@given(order=orders, share=st.integers(1, 3), step=st.integers(0, 30))
def test_any_number_of_workers_sees_the_ids_of_one(order: Order, share: int, step: int) -> None:
    batch_size = 24 * share
    alone = batch(order, step, batch_size=batch_size)
    for world_size in (1, 2, 3, 4, 8):
        parts = [batch(order, step, batch_size=batch_size, rank=r, world_size=world_size) for r in range(world_size)]
        for column, whole in zip(zip(*parts, strict=True), alone, strict=True):
            assert np.concatenate(column).tolist() == whole.tolist()


@given(order=orders, batch_size=st.integers(1, 40), stop=st.integers(0, 20), more=st.integers(1, 5))
def test_any_stop_goes_on_where_it_was(order: Order, batch_size: int, stop: int, more: int) -> None:
    through = np.concatenate([batch(order, step, batch_size=batch_size).ids for step in range(stop + more)])
    fresh = dataclasses.replace(order)  # as after a restart: nothing remembered
    resumed = np.concatenate([batch(fresh, step, batch_size=batch_size).ids for step in range(stop, stop + more)])
    assert through[stop * batch_size :].tolist() == resumed.tolist()


@given(order=orders, epoch=st.integers(0, 5))
def test_an_epoch_shows_each_id_as_often_as_stated(order: Order, epoch: int) -> None:
    samples = samples_at(order, np.arange(order.length) + epoch * order.length)
    assert set(samples.epochs.tolist()) == {epoch}
    assert samples.positions.tolist() == list(range(order.length))
    assert len(samples.ids) == len(order.labels) * order.config.repeats
    times = np.bincount(samples.ids, minlength=len(order.labels))
    if not order.config.balance:
        assert set(times.tolist()) == {order.config.repeats}
    repeated = samples.ids.reshape(-1, order.config.repeats)
    assert (repeated == repeated[:, :1]).all()


def test_options_leave_the_plain_order_as_it_is() -> None:
    order = corpus_order(seed=3)
    for step in range(8):
        ids, epochs = batch_ids(step, seed=3, size=37, batch_size=16)
        samples = batch(order, step, batch_size=16)
        assert (samples.ids.tolist(), samples.epochs.tolist()) == (ids.tolist(), epochs.tolist())


def test_streaming_orders_differ_by_seed_and_epoch() -> None:
    found = {tuple(two_level(seed, epoch, np.full(10, 6), 12).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(found) == 9
    assert two_level(1, 2, np.array([3, 2, 4]), 4).tolist() == [3, 0, 8, 4, 6, 2, 5, 1, 7]


def test_streaming_needs_few_shards_at_a_time() -> None:
    sizes, window = np.full(50, 20), 60
    shard_of = np.repeat(np.arange(50), 20)
    ids = two_level(0, 0, sizes, window)
    for start in range(0, 1000 - window, window // 2):
        assert len(set(shard_of[ids[start : start + window]].tolist())) <= 2 * window // 20 + 2
    # ... and mixes them: neighbours in the order are seldom neighbours in a shard
    assert np.mean(np.abs(np.diff(ids)) == 1) < 0.05


@pytest.mark.parametrize("window", [0, 8])
def test_every_place_is_equally_likely(window: int) -> None:
    """Chi-square over where each of 32 ids falls in 1,000 epochs; a fixed seed, so it cannot fail by chance."""
    order = corpus_order((8, 8, 8, 8), seed=5, window=window)
    places = np.stack([np.argsort(epoch_ids(order, epoch)) for epoch in range(1000)])  # [epoch, id]
    expected = 1000 / 32
    for example in range(32):
        counts = np.bincount(places[:, example], minlength=32)
        assert ((counts - expected) ** 2 / expected).sum() < 75  # 31 degrees of freedom: p < 1e-4 above 71


def test_balance_evens_out_the_classes() -> None:
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    shares = [np.bincount(labels[balanced(0, 0, labels, balance)]).tolist() for balance in (0.0, 0.5, 1.0)]
    assert shares == [[80, 15, 5], [59, 26, 15], [34, 33, 33]]
    shown = np.bincount(np.concatenate([balanced(0, epoch, labels, 1.0) for epoch in range(20)]), minlength=100)
    for label in range(3):
        assert np.ptp(shown[labels == label]) <= 1


def test_balance_needs_labels() -> None:
    with pytest.raises(ValueError, match="balance needs a label for every image"):
        Order(
            seed=0,
            config=OrderConfig(window=0, repeats=1, balance=1.0),
            labels=np.array([0, -1]),
            shard_sizes=np.array([2]),
        )


@pytest.mark.parametrize(("name", "value"), [("window", -1), ("repeats", 0), ("balance", 1.5)])
def test_bad_order_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} {value} must be"):
        OrderConfig(**({"window": 0, "repeats": 1, "balance": 0.0} | {name: value}))


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
