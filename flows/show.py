"""What a person sees in Prefect: a live progress bar per stage, pictures, links, and a summary of the run.

Showing never fails the work: a server that does not answer costs a warning.
"""

import base64
import contextlib
import logging
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.logging import get_run_logger

from flows import report, report_page
from flows.adapters import mlflow_registry, mlflow_runs
from flows.stages.execute import Done, tracked_page
from flows.stages.progress import RANDOM_INIT, Listener, Progress
from flows.stages.run import Run
from vit.training.ledger import TOTALS

logger = logging.getLogger("vitflow")
UPDATE_EVERY = 2.0  # seconds between two updates of the progress artifact
FINISH_SECONDS = 5.0  # that the end of a stage waits for its last update
LITTLE = 0.005  # device-hours that are not worth a word
LOG_EVERY = 10.0  # seconds between two progress lines in the task's log
_watchers: list[Callable[[str, Done | None], None]] = []
_listeners: list[Listener] = []


def watch(listener: Listener, on_stage: Callable[[str, Done | None], None]) -> None:
    """Also tell a terminal: every progress report, and every finished stage (None: it was up to date)."""
    _listeners.append(listener)
    _watchers.append(on_stage)


def stage_done(run: Run, stage: str, done: Done | None) -> None:
    """Tell watchers, and show the stage's MLflow run and pictures on the run page, whenever they were made."""
    for watcher in _watchers:
        watcher(stage, done)
    with _warning():
        url = done.url if done else tracked_page(run, stage)
        if url:
            create_link_artifact(
                link=url,
                link_text=f"{stage} in MLflow",
                key=f"{stage}-mlflow",
                description=f"Parameters, metrics, files and lineage of {stage}",
            )
    pictures(stage, run.out(stage))


@contextlib.contextmanager
def live(stage: str) -> Iterator[tuple[Listener, ...]]:
    """Listeners for a running stage: a progress artifact, a line in the task's log now and then, and the terminal's."""
    log = get_run_logger()
    artifact: list[UUID] = []
    with _warning():
        artifact.append(_uuid(create_progress_artifact(progress=0.0, key=f"{stage}-progress", description=stage)))
    start = time.monotonic()
    last = {"update": 0.0, "log": 0.0}

    bar = _Bar(artifact[0]) if artifact else None

    def listen(event: Progress) -> None:
        now = time.monotonic()
        final = event.step >= event.total
        if bar and (final or now - last["update"] > UPDATE_EVERY):
            last["update"] = now
            bar.show(100.0 * event.step / max(event.total, 1), f"{stage}: {sentence(event)}")
        if final or now - last["log"] > LOG_EVERY:
            last["log"] = now
            log.info("%s: %s", stage, sentence(event))

    try:
        yield (listen, *_listeners)
        if bar:
            bar.show(100.0, f"{stage}: done in {time.monotonic() - start:.0f} s")
    finally:
        if bar:
            bar.finish()


class _Bar:
    """A progress artifact that a thread keeps at the newest value: a server that is away holds no training up."""

    def __init__(self, artifact: UUID) -> None:
        self._artifact = artifact
        self._newest: deque[tuple[float, str]] = deque(maxlen=1)
        self._changed, self._finished = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._update, daemon=True, name="prefect-progress")
        self._thread.start()

    def show(self, percent: float, description: str) -> None:
        """Soon; never waits."""
        self._newest.append((percent, description))
        self._changed.set()

    def finish(self) -> None:
        """After a last update, if there is somebody to tell."""
        self._finished.set()
        self._changed.set()
        self._thread.join(FINISH_SECONDS)

    def _update(self) -> None:
        while not self._finished.is_set() or self._newest:
            self._changed.wait()
            self._changed.clear()
            if self._newest:
                percent, description = self._newest.pop()
                with _warning():
                    update_progress_artifact(self._artifact, progress=percent, description=description)


def sentence(event: Progress) -> str:
    """`step 200 of 1,200, loss 1.234, 1,530 images/s, 0:45 left`."""
    random = any(name.endswith(RANDOM_INIT) for name in event.metrics)
    parts = [f"{'from random weights, ' if random else ''}step {event.step:,} of {event.total:,}"]
    metrics = {name.removesuffix(RANDOM_INIT): value for name, value in event.metrics.items()}
    if (loss := metrics.pop("train/loss", None)) is not None:
        parts.append(f"loss {loss:.4g}")
    if (speed := metrics.pop("images_per_second", None)) is not None:
        parts.append(f"{speed:,.0f} images/s")
    if (waited := metrics.pop("data_wait_fraction", None)) is not None and waited >= 0.05:
        parts.append(f"{waited:.0%} of the time waiting for data")
    if (mfu := metrics.pop("mfu", None)) is not None:
        parts.append(f"MFU {mfu:.0%}")
    eta = metrics.pop("eta_seconds", None)
    parts += spent({name: metrics.pop(name) for name in TOTALS if name in metrics})
    for name in ("train/learning_rate", "train/grad_norm", "images_per_second_per_device", "memory_gb"):
        metrics.pop(name, None)  # MLflow has them
    parts += [f"{name} {value:.4g}" for name, value in metrics.items()]
    if eta is not None and event.step < event.total:
        parts.append(f"{int(eta) // 60}:{int(eta) % 60:02d} left")
    return ", ".join(parts)


def spent(totals: Mapping[str, float]) -> list[str]:
    """`1.5 device-hours`, `cost 3.75`, `2 restarts (40 s done again)`, as far as there is something to say."""
    parts: list[str] = []
    if totals.get("device_hours", 0.0) >= LITTLE:
        parts.append(f"{totals['device_hours']:,.2f} device-hours")
    if "cost" in totals:
        parts.append(f"cost {totals['cost']:,.2f}")
    if restarts := int(totals.get("restarts", 0)):
        again = f"{totals.get('redone_seconds', 0.0):,.0f} s done again"
        parts.append(f"{restarts} {'restart' if restarts == 1 else 'restarts'} ({again})")
    return parts


def pictures(stage: str, out: Path) -> None:
    """The stage's PNG files as artifacts of its task run, with a caption each."""
    with _warning():  # around all: each would wait for a server that is away
        for path in sorted(out.glob("*.png")):
            key = f"{stage}-{path.stem}".replace("_", "-")
            text = f"{_inline(path)}\n\n`{path}`\n"
            create_markdown_artifact(
                text, key=key, description=report.CAPTIONS.get(path.stem, f"{path.stem} of {stage}")
            )


def summary(run: Run) -> None:
    """The run's results in Markdown, with the scores as a picture and a link to the registered version."""
    page = None
    with _warning():
        page = _log_page(run, report.results(run)["register"]["run_id"])
    with _warning():
        text = report.markdown(run)
        registered = report.results(run)["register"]
        uri, alias = registered["uri"], registered["alias"]
        url = mlflow_registry.version_url(registered["name"], registered["version"])
        if url:
            heading, _, table = text.partition("\n")
            text = f"{heading}\n\n[{uri} in MLflow]({url})\n{table}"
            about = f"The registered model, {alias}"
            create_link_artifact(link=url, link_text=f"{uri} in MLflow", key="model-version", description=about)
        if page:
            create_link_artifact(link=page, link_text="The run in full", key="report", description="Report in MLflow")
            text += f"\n[The run in full, in MLflow]({page})\n"
        text += "".join(f"\n{_inline(path)}\n" for path in sorted(run.out("evaluate").glob("*.png")))
        create_markdown_artifact(text, key="summary", description=f"Results of {run.pipeline}: {uri}, {alias}")
        get_run_logger().info("%s is the %s: %s", uri, alias, url or "see `vitflow models`")


def _log_page(run: Run, run_id: str) -> str | None:
    """Keep the report's page with the MLflow run of register; its address there, None without a server."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "report.html"
        file.write_text(report_page.page(report.title(run), report.told(run)), encoding="utf-8")
        with mlflow_runs.attached(run_id) as tracked:
            tracked.log_artifacts(file)
    return tracked.url and f"{tracked.url}/artifacts/{file.name}"


def _inline(picture: Path) -> str:
    """A PNG inside Markdown: Prefect serves no files, and prints the whole data: URI under an image artifact."""
    data = base64.b64encode(picture.read_bytes()).decode()
    return f"![{picture.stem}](data:image/png;base64,{data})"


def _uuid(value: Any) -> UUID:
    assert isinstance(value, UUID)
    return value


@contextlib.contextmanager
def _warning() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        logger.warning("could not be shown in Prefect: %s", error)
