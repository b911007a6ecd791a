"""What a training has cost, and lost to its interruptions, by a clock that the test turns."""

from pathlib import Path

import pytest

from flows.show import spent
from vit.training import ledger
from vit.training.ledger import Ledger


class Training:
    """Sittings one after the other: each a ledger of its own, as in a process of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.time = directory, 1_000_000.0

    def sit(self, step: int, *, devices: int = 2, until: tuple[int, ...]) -> tuple[Ledger, dict[str, float]]:
        """From `step` on with a report at each of these, a second for every update; then it dies."""
        self.time += 500.0  # nobody works
        book, totals = Ledger(self.directory, step=step, devices=devices, clock=lambda: self.time), {}
        for done in until:
            self.time += done - step
            step, totals = done, book.note(done)
        return book, totals


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "checkpoints")


def test_undisturbed_nothing_is_lost(training: Training) -> None:
    book, totals = training.sit(0, until=(10, 20, 1800))
    assert book.lost == 0 and totals == {"restarts": 0, "redone_seconds": 0, "device_hours": pytest.approx(1.0)}


def test_work_after_the_last_checkpoint_is_lost(training: Training) -> None:
    training.sit(0, until=(10, 20, 30))
    book, totals = training.sit(24, until=(30, 40))
    assert book.lost == pytest.approx(6.0)  # updates 25 to 30; between two reports in proportion
    assert totals == {"restarts": 1, "redone_seconds": pytest.approx(6), "device_hours": pytest.approx(2 * 46 / 3600)}


def test_losses_add_up_over_other_numbers_of_devices(training: Training) -> None:
    training.sit(0, devices=2, until=(10, 20))
    training.sit(10, devices=1, until=(15,))
    book, totals = training.sit(10, devices=4, until=(20,))
    assert book.lost == pytest.approx(5) and totals["redone_seconds"] == pytest.approx(10 + 5)
    assert totals["device_hours"] == pytest.approx((2 * 20 + 1 * 5 + 4 * 10) / 3600) and totals["restarts"] == 2


def test_a_broken_newest_checkpoint_costs_what_two_sittings_did(training: Training) -> None:
    training.sit(0, until=(10, 20))
    training.sit(20, until=(30,))
    assert training.sit(10, until=())[0].lost == pytest.approx(10 + 10)


def test_what_was_lost_before_is_not_lost_again(training: Training) -> None:
    training.sit(0, until=(10, 20))
    training.sit(10, until=(15,))
    book, totals = training.sit(5, until=(10,))
    assert book.lost == pytest.approx(10) and totals["redone_seconds"] == pytest.approx(10 + 10)


def test_a_checkpoint_after_the_last_report_costs_nothing(training: Training) -> None:
    training.sit(0, until=(10,))
    assert training.sit(12, until=())[0].lost == 0


def test_a_line_that_the_failure_cut_off_is_left_out(training: Training) -> None:
    training.sit(0, until=(10, 20))
    path = training.directory / ledger.FILE
    path.write_text(path.read_text().rstrip()[:-7])
    training.sit(10, until=(20,))
    assert training.sit(10, until=())[0].restarts == 2


def test_cost_is_hours_times_price(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_PRICE_PER_DEVICE_HOUR", "2.5")
    _, totals = training.sit(0, devices=8, until=(3600,))
    assert totals["cost"] == pytest.approx(20.0)
    assert spent(totals) == ["8.00 device-hours", "cost 20.00"]
    assert spent({"restarts": 1.0, "redone_seconds": 41.2}) == ["1 restart (41 s done again)"]


@pytest.mark.parametrize("text", ["free", "-1", "nan", "inf"])
def test_what_is_no_price_is_refused(text: str, training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_PRICE_PER_DEVICE_HOUR", text)
    with pytest.raises(ValueError, match="must be what a device costs for an hour"):
        training.sit(0, until=())
