"""The turn of a run goes on through outages of Prefect's server; Prefect's own engine would end the run."""

import http
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import prefect.flow_engine
import pytest
from prefect.exceptions import PrefectHTTPStatusError

from flows import pipeline, turns

LEASE = uuid.uuid4()


class Server:
    """Answers a request for a renewal with what comes next; the last answer stays."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers, self.asked = list(answers), list[tuple[uuid.UUID, float]]()

    @contextmanager
    def client(self, **_: object) -> Iterator["Server"]:
        yield self

    def renew_concurrency_lease(self, lease: uuid.UUID, seconds: float) -> None:
        self.asked.append((lease, seconds))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is not None:
            raise answer


def gone(code: int) -> PrefectHTTPStatusError:
    request = httpx.Request("POST", "http://127.0.0.1/renew")
    return PrefectHTTPStatusError("no", request=request, response=httpx.Response(code, request=request))


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    def made(*answers: Exception | None) -> Server:
        server = Server(*answers)
        monkeypatch.setattr(turns, "get_client", server.client)
        monkeypatch.setattr(turns, "RENEW_EVERY", 0.01)
        return server

    return made


def test_prefects_engine_asks_here() -> None:
    assert pipeline.turns is turns
    assert vars(prefect.flow_engine)["maintain_concurrency_lease"] is turns.kept


def test_a_run_outlives_an_outage(serving: Callable[..., Server]) -> None:
    server = serving(httpx.ConnectError("refused"), gone(503), httpx.ReadTimeout("late"), None)
    with turns.kept(LEASE, 300, raise_on_lease_renewal_failure=True):
        deadline = time.monotonic() + 30
        while len(server.asked) < 6:
            assert time.monotonic() < deadline, server.asked
            time.sleep(0.01)
    assert set(server.asked) == {(LEASE, turns.SECONDS)}, "the whole lease each time"
    asked = len(server.asked)
    time.sleep(0.1)
    assert len(server.asked) == asked, "nobody renews after the end of the run"


def test_a_lost_turn_is_said_once(serving: Callable[..., Server], caplog: pytest.LogCaptureFixture) -> None:
    server = serving(gone(http.HTTPStatus.GONE))
    with caplog.at_level(logging.WARNING, "vitflow.turns"), turns.kept(LEASE, 300):
        time.sleep(0.2)
    assert len(server.asked) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "Prefect's server no longer knows that it is this run's turn; the run goes on"
    ]
