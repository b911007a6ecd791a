"""Which version applications load: aliases that move only for a better score, or by a person who says why.

Aliases: `champion` (what applications load), `previous` (the champion before, for a rollback), `challenger` (the last
one that did not win). What moved them is a tag of the version, so the registry alone tells its history.
"""

import dataclasses
import datetime
import math
from collections.abc import Mapping

from flows.adapters.mlflow_registry import EVALUATED_ON, UnknownModel, Version, versions
from flows.adapters.mlflow_store import check_name, client, locked

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
DECISION, PREDECESSOR, MOVED_BY = "vitflow.decision", "vitflow.previous_champion", "vitflow.moved_by"
TOLERANCE = 1e-9  # 0.86 - 0.85 is not 0.01 in floating point


class PromotionConflict(RuntimeError):
    """Someone else moved an alias at the same moment."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """When a version takes the champion's place."""

    metric: str  # that decides; larger is better
    min_improvement: float  # over the champion, in units of the metric
    guarded: tuple[str, ...] = ()  # metrics that must not fall far, whatever `metric` gains
    max_drop: float | None = None  # of a guarded metric below the champion's; None: any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate said about a version."""

    alias: str  # champion or challenger
    sentence: str
    value: float
    champion: Version | None  # the one it was compared with


def promote(name: str, version: str, gate: Gate) -> Decision:
    """Make a version champion if the gate lets it pass, else challenger.

    NaN never wins; without a champion any number does; a tie does not; a champion scored on other data, or without
    this metric, is not comparable and stays. The decision is stored on the version. Raises PromotionConflict.
    """
    with locked(f"registry-{check_name(name, 'model_name')}"):
        known = {one.version: one for one in versions(name)}
        candidate = _known(name, version, known)
        champion = _holder(CHAMPION, known)
        if champion is not None and champion.version == version:
            return _as_before(candidate, known, gate.metric)
        decision = decide(candidate, champion, gate)
        if decision.alias == CHAMPION:
            _crown(candidate, champion, decision.sentence)
        else:
            client().set_model_version_tag(name, version, DECISION, decision.sentence)
            _point(name, CHALLENGER, version)
    return decision


def appoint(name: str, version: str, *, who: str, why: str) -> Decision:
    """Make a version champion because a person says so; who, when and why stay on it. Raises UnknownModel."""
    with locked(f"registry-{check_name(name, 'model_name')}"):
        known = {one.version: one for one in versions(name)}
        return _appoint(_known(name, version, known), _holder(CHAMPION, known), who, why)


def roll_back(name: str, *, who: str, why: str) -> Decision:
    """Make `previous` champion again; the champion becomes `previous`, so that a second call undoes the first.

    Raises UnknownModel if no version is `previous`.
    """
    with locked(f"registry-{check_name(name, 'model_name')}"):
        known = {one.version: one for one in versions(name)}
        before = _holder(PREVIOUS, known)
        if before is None:
            raise UnknownModel(f"{name} has no previous champion to go back to; `vitflow models promote` names any")
        return _appoint(before, _holder(CHAMPION, known), who, f"rolled back: {why}")


def decide(candidate: Version, champion: Version | None, gate: Gate) -> Decision:
    """The gate alone: a pure function of two versions."""
    wins, reason = _compare(candidate, champion, gate)
    role = "becomes champion" if wins else "is a challenger"
    return Decision(
        alias=CHAMPION if wins else CHALLENGER,
        sentence=f"version {candidate.version} {role}: {reason}",
        value=candidate.scores.get(gate.metric, math.nan),
        champion=champion,
    )


def _compare(candidate: Version, champion: Version | None, gate: Gate) -> tuple[bool, str]:
    value = candidate.scores.get(gate.metric, math.nan)
    if math.isnan(value):
        return False, f"its {gate.metric} is no number"
    if champion is None:
        return True, f"its {gate.metric} is {value:.4f} and there was no champion"
    if champion.tags.get(EVALUATED_ON) != candidate.tags.get(EVALUATED_ON):
        reason = "was scored on other data, so the two cannot be compared; move the alias by hand if it should go"
        return False, f"the champion, version {champion.version}, {reason}"
    best = champion.scores.get(gate.metric, math.nan)
    if math.isnan(best):
        return False, f"the champion, version {champion.version}, has no {gate.metric} to compare with"
    rival = f"{best:.4f} of version {champion.version}"
    if not (value > best and value - best >= gate.min_improvement - TOLERANCE):
        needed = f" by the {gate.min_improvement:g} that is asked for" if gate.min_improvement else ""
        return False, f"its {gate.metric} of {value:.4f} does not beat the {rival}{needed}"
    fallen = _fallen(candidate, champion, gate)
    if fallen:
        return False, f"its {gate.metric} of {value:.4f} beats the {rival}, but {'; '.join(fallen)}"
    return True, f"its {gate.metric} of {value:.4f} beats the {rival}"


def _fallen(candidate: Version, champion: Version, gate: Gate) -> list[str]:
    """The guarded metrics that fell too far, as words."""
    if gate.max_drop is None:
        return []
    pairs = [(name, candidate.scores.get(name, math.nan), champion.scores.get(name, math.nan)) for name in gate.guarded]
    return [
        f"{name} falls from {before:.4f} to {now:.4f}, more than the {gate.max_drop:g} that is allowed"
        for name, now, before in pairs
        if not math.isnan(before) and not now >= before - gate.max_drop - TOLERANCE
    ]


def _as_before(champion: Version, known: Mapping[str, Version], metric: str) -> Decision:
    """What was decided when this champion won."""
    return Decision(
        alias=CHAMPION,
        sentence=champion.tags.get(DECISION, f"version {champion.version} is the champion"),
        value=champion.scores.get(metric, math.nan),
        champion=known.get(champion.tags.get(PREDECESSOR, "")),
    )


def _appoint(candidate: Version, champion: Version | None, who: str, why: str) -> Decision:
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    sentence = f"version {candidate.version} is champion by {who}, {when}: {why}"
    if champion is None or champion.version != candidate.version:
        _crown(candidate, champion, sentence)
    client().set_model_version_tag(candidate.name, candidate.version, DECISION, sentence)
    client().set_model_version_tag(candidate.name, candidate.version, MOVED_BY, who)
    return Decision(alias=CHAMPION, sentence=sentence, value=math.nan, champion=champion)


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


def _known(name: str, version: str, known: Mapping[str, Version]) -> Version:
    if version not in known:
        raise UnknownModel(f"{name} has no version {version}; it has {', '.join(known) or 'none'}")
    return known[version]


def _holder(alias: str, known: Mapping[str, Version]) -> Version | None:
    return next((one for one in known.values() if alias in one.aliases), None)
