"""The turn of a flow run whose deployment has one at a time: kept while Prefect's server is away.

Prefect's engine (3.8) ends a run if three requests to renew the lease of its turn fail, within half a minute: an outage
at the wrong moment, or a new server that does not know the lease, would end a training of weeks. Here a run goes on in
any case. What it writes it has for itself (Run.only_one), so that not even a second run beside it does harm.
"""

import contextlib
import http
import logging
import threading
from collections.abc import Generator
from uuid import UUID

import prefect.flow_engine
from prefect import get_client
from prefect.exceptions import PrefectHTTPStatusError

logger = logging.getLogger("vitflow.turns")
SECONDS = 900.0  # that a lease lasts: a server that is away for less finds it valid, one whose run died frees the turn
RENEW_EVERY = 60.0  # seconds


@contextlib.contextmanager
def kept(lease: UUID, _seconds: float, raise_on_lease_renewal_failure: bool = False) -> Generator[None]:
    """Renew a lease until the end of the block; what the engine asks for beside it is not heeded."""
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, over), daemon=True, name="turn")
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join(2)


def _renew(lease: UUID, over: threading.Event) -> None:
    while True:
        try:
            with get_client(sync_client=True) as client:
                client.renew_concurrency_lease(lease, SECONDS)
        except PrefectHTTPStatusError as error:
            if error.response.status_code == http.HTTPStatus.GONE:
                logger.warning("Prefect's server no longer knows that it is this run's turn; the run goes on")
                return
        except Exception as error:  # of any kind: the server is away
            logger.debug("the turn could not be renewed: %s", error)
        if over.wait(RENEW_EVERY):
            return


def keep_through_outages() -> None:
    """Of all flow runs in this process."""
    assert "maintain_concurrency_lease" in vars(prefect.flow_engine)
    prefect.flow_engine.maintain_concurrency_lease = kept  # pyright: ignore[reportPrivateImportUsage]
