"""Pipelines as typed data: the only reader of pipelines.yaml.

Sits above the stages (each declares its own dataclass), so editing one section never touches another stage.
Everything wrong is said before anything runs, by dotted path, with the nearest valid name.
"""

import copy
import dataclasses
import difflib
import functools
import json
import os
import re
import types
import typing
import zoneinfo
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml

from flows.stages.deduplicate import DeduplicateConfig
from flows.stages.evaluate import EvaluateConfig
from flows.stages.finetune import FinetuneConfig
from flows.stages.prepare import PrepareConfig
from flows.stages.pretrain import PretrainConfig, expand
from flows.stages.register import RegisterConfig
from flows.stages.tasks import BENCHMARKS
from vit.models.build import at_resolution

FILE = "pipelines.yaml"
LISTED = 24  # names in a sentence
# What each stage reads, by the name of its parameter; the order is the order of the pipeline.
INPUTS: Mapping[str, Mapping[str, str]] = types.MappingProxyType(
    {
        "prepare": {},
        "deduplicate": {"images": "prepare"},
        "pretrain": {"images": "prepare", "kept": "deduplicate"},
        "finetune": {"images": "prepare", "kept": "deduplicate", "backbone": "pretrain"},
        "evaluate": {"images": "prepare", "dedup": "deduplicate", "backbone": "pretrain", "model": "finetune"},
        "register": {"dedup": "deduplicate", "pretrain": "pretrain", "model": "finetune", "scores": "evaluate"},
    }
)
STAGES = tuple(INPUTS)


class ConfigError(ValueError):
    """Something in pipelines.yaml, an override or a name is wrong; the message says what and where."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """When Prefect starts a pipeline by itself."""

    cron: str  # minute, hour, day of month, month, day of week
    timezone: str  # such as Europe/Berlin; daylight saving time is followed
    jitter_seconds: int  # a run waits up to this long, so that many pipelines do not start in the same second

    def __post_init__(self) -> None:
        if len(self.cron.split()) != 5:
            raise ValueError(f"cron is {self.cron!r}, but must have five fields: minute hour day month weekday")
        if self.timezone not in zoneinfo.available_timezones():
            raise ValueError(f"timezone {self.timezone!r} is unknown; write one like UTC or Europe/Berlin")
        if self.jitter_seconds < 0:
            raise ValueError(f"jitter_seconds is {self.jitter_seconds}, but must be 0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeployConfig:
    """How Prefect offers the pipeline; never part of a result."""

    description: str  # shown in the Prefect UI
    env: Mapping[str, str]  # where it runs: VITFLOW_WORKERS, RAY_ADDRESS, …
    schedule: ScheduleConfig | None  # null: started by people only
    work_pool: str | None  # whose workers run it; null: `vitflow up` does
    collision: Literal["enqueue", "cancel_new"]  # of a run that starts while one goes on
    stall_after: float | None  # seconds without progress after which a stage is stopped; null: never

    def __post_init__(self) -> None:
        if self.stall_after is not None and not self.stall_after > 0:
            raise ValueError(f"stall_after is {self.stall_after:g}, but must be above 0, or null for never")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """All numbers of one pipeline, a section per stage."""

    prepare: PrepareConfig
    deduplicate: DeduplicateConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    evaluate: EvaluateConfig
    register: RegisterConfig
    deploy: DeployConfig

    def __post_init__(self) -> None:
        if self.finetune.dropout and self.pretrain.model.family == "resnet":
            raise ValueError(f"finetune.dropout is {self.finetune.dropout}, but a ResNet has no dropout: set it to 0")
        if unknown := self.evaluate.benchmarks.keys() - set(BENCHMARKS):
            raise ValueError(f"there is no benchmark {min(unknown)!r}; {_nearest(min(unknown), BENCHMARKS)}")
        for stage in ("finetune", "evaluate"):
            try:
                at_resolution(self.pretrain.model, getattr(self, stage).resolution)
            except ValueError as error:
                raise ValueError(f"{stage}.resolution does not fit pretrain.model: {error}") from error


def root() -> Path:
    """The checkout that runs are read from and written to: VITFLOW_ROOT."""
    return Path(os.environ["VITFLOW_ROOT"]) if "VITFLOW_ROOT" in os.environ else Path.cwd()


def names() -> tuple[str, ...]:
    """The pipelines that pipelines.yaml defines."""
    return tuple(_sections())


def load(pipeline: str, overrides: Sequence[str] = ()) -> Pipeline:
    """A pipeline with overrides like `pretrain.train.steps=500` applied and every value checked.

    Raises ConfigError naming the dotted path and the nearest valid name.
    """
    sections = _sections()
    if pipeline not in sections:
        raise ConfigError(f"there is no pipeline {pipeline!r} in {FILE}; {_nearest(pipeline, sections)}")
    values = copy.deepcopy(sections[pipeline])
    for override in sorted(overrides, key=_is_of_variant, reverse=True):
        if not _is_of_variant(override):
            _expand(values, pipeline)
        _apply(values, override)
    _expand(values, pipeline)
    try:
        return _adapter().validate_json(json.dumps(values, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise ConfigError(_sentences(error, pipeline, values)) from error


def _sections() -> dict[str, Any]:
    path = root() / FILE
    try:
        document = _parsed(path, path.stat().st_mtime_ns)
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {FILE} in {root()}: run vitflow inside a checkout or set VITFLOW_ROOT"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("pipelines"), dict):
        raise ConfigError(f"{path} must have a mapping `pipelines:` of pipeline names")
    return document["pipelines"]


@functools.lru_cache(maxsize=4)
def _parsed(path: Path, _changed: int) -> Any:
    """The file as it was at that time; parsed once, because its merge keys take a tenth of a second. Read-only."""
    return yaml.safe_load(path.read_text())


def _is_of_variant(override: str) -> bool:
    """True for what must be known before a variant's other values are: a change of one of those goes on top."""
    return override.partition("=")[0].strip() in ("pretrain.model.variant", "pretrain.model.resolution")


def _expand(values: dict[str, Any], pipeline: str) -> None:
    """Fill in what `variant` stands for."""
    try:
        if "variant" in values["pretrain"]["model"]:
            values["pretrain"]["model"] = expand(values["pretrain"]["model"])
    except (KeyError, TypeError):
        return  # a section is missing: the check of all values says so
    except ValueError as error:
        raise ConfigError(f"{FILE}, pipeline {pipeline}: pretrain.model: {error}") from error


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override {override!r} must look like stage.section.name=value")
    here: Any = values
    for depth, key in enumerate(keys):
        if not isinstance(here, dict) or key not in here:
            if isinstance(here, dict) and depth == len(keys) - 1 and _takes_new_names(keys[:-1]):
                break
            at = ".".join(keys[:depth]) or "the pipeline"
            known = here if isinstance(here, dict) else ()
            raise ConfigError(f"override {override!r}: {at} has no {key!r}; {_nearest(key, known)}")
        if depth < len(keys) - 1:
            here = here[key]
    if here.get(keys[-1]) and isinstance(here[keys[-1]], dict):
        raise ConfigError(
            f"override {override!r} would replace a whole section; name one value in it: {', '.join(here[keys[-1]])}"
        )
    here[keys[-1]] = _parse(text.strip())


def _takes_new_names(path: Sequence[str]) -> bool:
    """True for a section of sections that people name, `evaluate.benchmarks`."""
    kind: Any = Pipeline
    for key in path:
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        kind = next((field.type for field in fields if field.name == key), None)
    return typing.get_origin(kind) is Mapping and dataclasses.is_dataclass(typing.get_args(kind)[1])


def _parse(text: str) -> Any:
    """YAML, except that 1e-3 is a number, as everyone means it."""
    if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text):
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


@functools.cache
def _adapter() -> pydantic.TypeAdapter[Pipeline]:
    return pydantic.TypeAdapter(_forbidding_extra(Pipeline))


def _forbidding_extra(cls: type) -> Any:
    """Tell pydantic to refuse unknown keys, in this dataclass and those inside it, without `vit` knowing pydantic."""
    for field in dataclasses.fields(cls):
        for inner in _sections_of(field.type):
            _forbidding_extra(inner)
    cls.__pydantic_config__ = pydantic.ConfigDict(extra="forbid")  # pyright: ignore[reportAttributeAccessIssue]
    return cls


def _sections_of(kind: Any) -> list[Any]:
    """The dataclasses that a field may hold: its type, or those of a union."""
    if isinstance(kind, type):
        return [kind] if dataclasses.is_dataclass(kind) else []
    return [section for inner in typing.get_args(kind) for section in _sections_of(inner)]


def _sentences(error: pydantic.ValidationError, pipeline: str, values: dict[str, Any]) -> str:
    return "\n".join(_sentence(problem, pipeline, values) for problem in error.errors())


def _sentence(problem: Any, pipeline: str, values: dict[str, Any]) -> str:
    parts, section = _walk(problem["loc"])
    path = ".".join(parts)
    where = f"{FILE}, pipeline {pipeline}: {path}"
    if problem["type"] == "unexpected_keyword_argument":
        valid = [field.name for field in dataclasses.fields(section)]
        return f"{where} is not a known name; {_nearest(str(problem['loc'][-1]), valid)}"
    if problem["type"].startswith("union_tag"):
        return f"{where}: say which network, by `variant: ViT-B/16` or by `family: vit` (or resnet) and all its fields"
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] == "value_error":
        return (
            f"{where}: {problem['ctx']['error']}" if path else f"{FILE}, pipeline {pipeline}: {problem['ctx']['error']}"
        )
    return f"{where} is {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _walk(location: Sequence[Any]) -> tuple[list[str], Any]:
    """Where pydantic found something, as names of fields, and the section around the last of them.

    Of a union pydantic also names the member: pretrain.model.vit.width is our pretrain.model.width.
    """
    parts: list[str] = []
    section: Any = Pipeline
    kind: Any = Pipeline
    for key in map(str, location):
        if typing.get_origin(kind) is Mapping:
            parts.append(key)
            kind = typing.get_args(kind)[1]
            continue
        members = _families(kind)
        if key in members:
            kind = members[key]
            continue
        parts.append(key)
        sections = _sections_of(kind)
        section = sections[0] if sections else section
        fields = {field.name: field.type for field in dataclasses.fields(section)} if sections else {}
        kind = fields.get(key)
    return parts, section


def _families(kind: Any) -> dict[str, Any]:
    """The members of a union of networks by family; nothing for any other type."""
    members = () if isinstance(kind, type) else _sections_of(kind)
    return {typing.get_args(cls.__dataclass_fields__["family"].type)[0]: cls for cls in members}


def _nearest(name: str, valid: Any) -> str:
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    shown = sorted(valid)
    known = ", ".join(shown[:LISTED]) + (f" and {len(shown) - LISTED} more" if len(shown) > LISTED else "") or "nothing"
    return f"did you mean {near[0]!r}? (known: {known})" if near else f"known: {known}"
