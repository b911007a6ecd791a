"""Registered models: one version per fingerprint, a model that says where it came from.

Scores are version tags `metric.NAME`, so the gate (mlflow_gate.py) and any client read the same number.
"""

import dataclasses
import datetime
import difflib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.adapters import mlflow_models
from flows.adapters.mlflow_runs import FINGERPRINT
from flows.adapters.mlflow_store import check_name, client, locked, tracking_uri

# The store first: it sets the environment that MLflow reads when it is imported.
# isort: split
import mlflow
from mlflow.entities import Metric, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel

EVALUATED_ON = "vitflow.evaluated_on"
METRIC = "metric."  # prefix of the tags that hold scores


class UnknownModel(ValueError):
    """There is no such model, version or alias."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Submission:
    """A model about to be registered."""

    name: str  # of the registered model
    fingerprint: str  # one version each
    metrics: Mapping[str, float]
    tags: Mapping[str, str]  # lineage; on the run and on the version
    card: str  # Markdown, shown with the version; {uri} becomes models:/NAME/VERSION
    configs: Mapping[str, Any]  # resolved config of every stage, stored inside the model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """A registered model version, as plain data."""

    name: str
    version: str
    aliases: tuple[str, ...]
    scores: Mapping[str, float]
    tags: Mapping[str, str]  # lineage and everything else but the scores
    created: str  # ISO 8601, UTC
    run_id: str
    uri: str  # models:/NAME/VERSION
    card: str = ""  # Markdown


def register(model: Path, submission: Submission, *, run_id: str) -> Version:
    """The version of this fingerprint: the one already there, or a new one from `model`.

    Metrics and tags go on the run as well. Raises ServiceDown, or ValueError for a name that is no safe name.
    """
    name = check_name(submission.name, "model_name")
    _record(run_id, submission)
    with locked(f"registry-{name}"):
        existing = find(name, submission.fingerprint)
        if existing is not None:
            return existing
        lineage = {"fingerprint": submission.fingerprint, "lineage": dict(submission.tags)}
        info = mlflow_models.log(model, name, run_id, {**lineage, "configs": dict(submission.configs)})
        tags = {**submission.tags, FINGERPRINT: submission.fingerprint}
        tags |= {f"{METRIC}{key}": repr(float(value)) for key, value in sorted(submission.metrics.items())}
        # Tags come with the version in one transaction: killed here, there is a whole version or none.
        made = mlflow.register_model(info.model_uri, name, tags=tags)
        version = _plain(made, {})
        client().update_model_version(name, version.version, submission.card.replace("{uri}", version.uri))
    return version


def find(name: str, fingerprint: str) -> Version | None:
    """The oldest version with this fingerprint."""
    check_name(name, "model_name")
    query = f"name = '{name}' and tags.`{FINGERPRINT}` = '{check_name(fingerprint, 'fingerprint')}'"
    found = sorted(client().search_model_versions(query), key=lambda version: int(version.version))
    return _plain(found[0], _aliases(name)) if found else None


def versions(name: str) -> list[Version]:
    """All versions, newest first; raises UnknownModel with the nearest name."""
    query = f"name = '{check_name(name, 'model_name')}'"
    aliases, found = _aliases(name), [version for page in _pages(query) for version in page]
    return sorted((_plain(version, aliases) for version in found), key=lambda one: -int(one.version))


def version(uri: str) -> Version:
    """The version behind `models:/NAME@alias`, `models:/NAME/VERSION` or the same without `models:/`.

    A name alone is its champion. Raises UnknownModel with what there is.
    """
    name, at, alias = uri.removeprefix("models:/").partition("@")
    name, slash, number = name.partition("/")
    wanted = number if slash else (alias if at else "champion")
    found = versions(name)
    for one in found:
        if (slash and one.version == wanted) or (not slash and wanted in one.aliases):
            return one
    known = [f"{one.uri} ({', '.join(one.aliases)})" if one.aliases else one.uri for one in found]
    raise UnknownModel(f"{name} has no {'version' if slash else 'alias'} {wanted}; there are {', '.join(known)}")


def fetch(uri: str, directory: Path) -> Path:
    """The weights of a version (models:/NAME/VERSION), downloaded into `directory`: a native safetensors file."""
    return mlflow_models.fetch(uri, directory)


def names() -> list[str]:
    """The registered models."""
    return sorted(model.name for model in client().search_registered_models(max_results=1000))


def version_url(name: str, version: str) -> str | None:
    """The version's page in the MLflow UI, if a server is used."""
    uri = tracking_uri().rstrip("/")
    return f"{uri}/#/models/{name}/versions/{version}" if uri.startswith(("http://", "https://")) else None


def load(uri: str) -> PyFuncModel:
    """The classifier behind `models:/NAME@alias` or `models:/NAME/VERSION`; raises UnknownModel."""
    name = uri.removeprefix("models:/").partition("@")[0].partition("/")[0]
    if not uri.startswith("models:/"):
        raise UnknownModel(f"{uri!r} is no model URI; write models:/NAME@champion or models:/NAME/VERSION")
    check_name(name, "model name")
    try:
        return mlflow_models.load(uri)
    except (MlflowException, OSError) as error:
        known = [f"{one.uri} ({', '.join(one.aliases)})" for one in versions(name)]
        raise UnknownModel(
            f"{uri} cannot be loaded ({error}); there are {', '.join(known) or 'no versions'}"
        ) from error


def _record(run_id: str, submission: Submission) -> None:
    """Metrics and lineage on the run; MLflow copies the metrics of step 0 to the model it logs there."""
    now = int(time.time() * 1000)
    metrics = [Metric(name, float(value), now, 0) for name, value in sorted(submission.metrics.items())]
    client().log_batch(run_id, metrics=metrics, tags=[RunTag(key, value) for key, value in submission.tags.items()])


def _aliases(name: str) -> dict[str, str]:
    """Alias to version; raises UnknownModel."""
    try:
        found: Mapping[str, Any] = client().get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise _unknown(name) from error
    return {alias: str(version) for alias, version in found.items()}


def _unknown(name: str) -> UnknownModel:
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5) or names()
    return UnknownModel(
        f"no model {name!r} is registered at {tracking_uri()}; there are {', '.join(near) or 'none yet'}"
    )


def _pages(query: str) -> Iterator[list[ModelVersion]]:
    page = client().search_model_versions(query, max_results=1000)
    yield page
    while page.token:
        page = client().search_model_versions(query, max_results=1000, page_token=page.token)
        yield page


def _plain(found: ModelVersion, aliases: Mapping[str, str]) -> Version:
    tags, version = dict(found.tags), str(found.version)
    created = datetime.datetime.fromtimestamp(found.creation_timestamp / 1000, datetime.UTC)
    return Version(
        name=found.name,
        version=version,
        aliases=tuple(sorted(alias for alias, target in aliases.items() if target == version)),
        scores={key.removeprefix(METRIC): float(value) for key, value in tags.items() if key.startswith(METRIC)},
        tags={key: value for key, value in tags.items() if not key.startswith(METRIC)},
        created=created.isoformat(timespec="seconds"),
        run_id=found.run_id or "",
        uri=f"models:/{found.name}/{version}",
        card=found.description or "",
    )
