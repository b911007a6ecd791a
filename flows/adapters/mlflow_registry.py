"""Registered models: one version per fingerprint, aliases that move only for a better score, a model that says
where it came from.

Aliases: `champion` (what applications load), `previous` (the champion before, for a rollback), `challenger` (the
last one that did not win). Scores are version tags `metric.NAME`, so the gate and any client read the same number.
"""

import dataclasses
import datetime
import difflib
import math
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

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
DECISION, PREDECESSOR, EVALUATED_ON = "vitflow.decision", "vitflow.previous_champion", "vitflow.evaluated_on"
METRIC = "metric."  # prefix of the tags that hold scores
TOLERANCE = 1e-9  # 0.86 - 0.85 is not 0.01 in floating point


class UnknownModel(ValueError):
    """There is no such model, version or alias."""


class PromotionConflict(RuntimeError):
    """Someone else moved an alias at the same moment."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate said about a version."""

    alias: str  # champion or challenger
    sentence: str
    value: float
    champion: Version | None  # the one it was compared with


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


def promote(name: str, version: str, metric: str, min_improvement: float) -> Decision:
    """Make a version champion if its metric beats the champion's by `min_improvement`, else challenger.

    NaN never wins; without a champion any number does; a tie does not; a champion scored on other data, or without
    this metric, is not comparable and stays. The decision is stored on the version. Raises PromotionConflict.
    """
    with locked(f"registry-{check_name(name, 'model_name')}"):
        known = {one.version: one for one in versions(name)}
        if version not in known:
            raise UnknownModel(f"{name} has no version {version}; it has {', '.join(known) or 'none'}")
        candidate = known[version]
        champion = next((one for one in known.values() if CHAMPION in one.aliases), None)
        if champion is not None and champion.version == version:
            return _as_before(candidate, known, metric)
        decision = decide(candidate, champion, metric, min_improvement)
        if decision.alias == CHAMPION:
            _crown(candidate, champion, decision.sentence)
        else:
            client().set_model_version_tag(name, version, DECISION, decision.sentence)
            _point(name, CHALLENGER, version)
    return decision


def decide(candidate: Version, champion: Version | None, metric: str, min_improvement: float) -> Decision:
    """The gate alone: a pure function of two versions."""
    value = candidate.scores.get(metric, math.nan)
    wins, reason = _compare(candidate, champion, metric, min_improvement)
    role = "becomes champion" if wins else "is a challenger"
    return Decision(
        alias=CHAMPION if wins else CHALLENGER,
        sentence=f"version {candidate.version} {role}: {reason}",
        value=value,
        champion=champion,
    )


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


def _compare(candidate: Version, champion: Version | None, metric: str, margin: float) -> tuple[bool, str]:
    value = candidate.scores.get(metric, math.nan)
    if math.isnan(value):
        return False, f"its {metric} is no number"
    if champion is None:
        return True, f"its {metric} is {value:.4f} and there was no champion"
    if champion.tags.get(EVALUATED_ON) != candidate.tags.get(EVALUATED_ON):
        reason = "was scored on other data, so the two cannot be compared; move the alias by hand if it should go"
        return False, f"the champion, version {champion.version}, {reason}"
    best = champion.scores.get(metric, math.nan)
    if math.isnan(best):
        return False, f"the champion, version {champion.version}, has no {metric} to compare with"
    rival = f"{best:.4f} of version {champion.version}"
    if value > best and value - best >= margin - TOLERANCE:
        return True, f"its {metric} of {value:.4f} beats the {rival}"
    needed = f" by the {margin:g} that is asked for" if margin else ""
    return False, f"its {metric} of {value:.4f} does not beat the {rival}{needed}"


def _as_before(champion: Version, known: Mapping[str, Version], metric: str) -> Decision:
    """What was decided when this champion won."""
    return Decision(
        alias=CHAMPION,
        sentence=champion.tags.get(DECISION, f"version {champion.version} is the champion"),
        value=champion.scores.get(metric, math.nan),
        champion=known.get(champion.tags.get(PREDECESSOR, "")),
    )


def _crown(candidate: Version, champion: Version | None, sentence: str) -> None:
    """Move the aliases, `previous` first: at every moment a consumer finds a champion, and a rollback its target."""
    name = candidate.name
    client().set_model_version_tag(name, candidate.version, DECISION, sentence)
    if champion is not None:
        client().set_model_version_tag(name, candidate.version, PREDECESSOR, champion.version)
        _point(name, PREVIOUS, champion.version)
    _point(name, CHAMPION, candidate.version)
    if CHALLENGER in candidate.aliases:
        client().delete_registered_model_alias(name, CHALLENGER)


def _point(name: str, alias: str, version: str) -> None:
    """Set an alias and read it back: the registry has no compare-and-set."""
    client().set_registered_model_alias(name, alias, version)
    found = client().get_model_version_by_alias(name, alias).version
    if str(found) != version:
        raise PromotionConflict(
            f"{name}@{alias} was set to version {version} but is version {found}: another run promotes at the same "
            "time; run register again when it is done"
        )


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
    )
