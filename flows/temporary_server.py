"""Prefect's temporary server, which a run brings along where PREFECT_API_URL names none: started again if it dies.

Prefect (3.8) does not look after it: a run would wait minutes for each answer that never comes. What the server knew is
in its database, and its clients ask again for longer than it takes to start.
"""

import contextlib
import contextvars
import logging
import threading
from collections.abc import Generator

logger = logging.getLogger("vitflow.prefect")
LOOK_EVERY = 1.0  # seconds
RESTARTS = 5  # in one run; what dies that often, dies of something else
PORT_TAKEN = 3  # exit code, with which Prefect itself takes another port


@contextlib.contextmanager
def kept() -> Generator[None]:
    """Look after it until the end of the block, from when it is there; at the end of the process Prefect stops it."""
    over, context = threading.Event(), contextvars.copy_context()  # the latter has Prefect's settings
    looking = threading.Thread(target=lambda: context.run(_look_after, over), daemon=True, name="temporary-server")
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


def _look_after(over: threading.Event) -> None:
    from prefect.server.api.server import SubprocessASGIServer as Server  # Prefect's client imports it at that time

    restarts = 0
    while not over.wait(LOOK_EVERY) and restarts < RESTARTS:
        for server in list(Server._instances.values()):  # pyright: ignore[reportPrivateUsage]
            process = server.server_process
            if process is None or process.poll() in (None, PORT_TAKEN):
                continue
            logger.warning("Prefect's temporary server has died (exit code %s): starting it again", process.returncode)
            server.server_process = server._run_uvicorn_command()  # pyright: ignore[reportPrivateUsage]
            restarts += 1
