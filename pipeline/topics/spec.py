"""topics.yaml: every topic and template of one, as a model; and the concrete topics that they come to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from pipeline.models.base import Model
from pipeline.models.resources import resource
from pipeline.models.window import duration_ms

__all__ = ["ROLES", "SpecError", "Topic", "TopicSpec", "TopicsFile", "expand", "load", "of_integration", "of_source"]

#: The roles that have lanes and dead letters.
ROLES = ("intake", "fanout", "sink", "bridge", "lake")
_FOREVER = "-1"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_OF_ROLE = frozenset({"role"})
_OF_SOURCE = frozenset({"partner", "source"})
_OF_INTEGRATION = frozenset({"partner", "integration"})
_OF_TIER = _OF_INTEGRATION | {"tier"}
#: A template is one of these; another one would be nobody's to make.
_KINDS = (frozenset[str](), _OF_ROLE, _OF_SOURCE, _OF_INTEGRATION, _OF_TIER)


class SpecError(ValueError):
    """topics.yaml can't be used; the text says where and why."""


class TopicSpec(Model):
    """One topic or template, as topics.yaml has it."""

    owner: str
    key: str
    value: str
    partitions: Literal["lanes"] | Annotated[int, Field(ge=1, le=1024)]
    cleanup: Literal["delete", "compact"]
    retention: str | None = None
    config: dict[str, str | int] = Field(default_factory=dict)
    why: Annotated[str, Field(min_length=10)]

    @field_validator("retention")
    @classmethod
    def _duration(cls, value: str | None) -> str | None:
        if value not in (None, "forever"):
            duration_ms(str(value))
        return value


class Defaults(Model):
    """Settings that every topic has unless it says otherwise."""

    config: dict[str, str | int] = Field(default_factory=dict)


class TopicsFile(Model):
    """The whole file. Template names have placeholders: ``raw.{partner}.{source}``."""

    version: Literal[1]
    defaults: Defaults = Field(default_factory=Defaults)
    topics: dict[str, TopicSpec]

    @field_validator("topics")
    @classmethod
    def _named(cls, topics: dict[str, TopicSpec]) -> dict[str, TopicSpec]:
        for name in topics:
            if _placeholders(name) not in _KINDS:
                raise ValueError(
                    f"{name!r}: a name has no placeholder, or {{role}}, or {{partner}} with {{source}}, or {{partner}} "
                    "with {integration} and perhaps {tier}"
                )
            if not _NAME.fullmatch(_PLACEHOLDER.sub("x", name)):
                raise ValueError(f"{name!r}: a name has letters, digits, `.`, `_` and `-` only, at most 249")
        return topics


class Topic(Model):
    """A concrete topic as it should be on the cluster; ``config`` holds the broker's own setting names."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str]


def load(path: Path | None = None) -> TopicsFile:
    """topics.yaml as shipped, or another file. Raises SpecError with the path of the fault."""
    path = path or resource("topics.yaml")
    try:
        return TopicsFile.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise SpecError(f"{path} is no YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"{path}: {where}: {first['msg']}") from None


def _placeholders(template: str) -> frozenset[str]:
    return frozenset(_PLACEHOLDER.findall(template))


def _concrete(file: TopicsFile, template: str, lanes: int, replication: int, names: Mapping[str, str]) -> Topic:
    spec = file.topics[template]
    config = {key: str(value) for key, value in (file.defaults.config | spec.config).items()}
    config["cleanup.policy"] = spec.cleanup
    if spec.retention is not None:
        config["retention.ms"] = _FOREVER if spec.retention == "forever" else str(duration_ms(spec.retention))
    return Topic(
        name=_PLACEHOLDER.sub(lambda match: names[match[1]], template),
        partitions=lanes if spec.partitions == "lanes" else spec.partitions,
        replication=replication,
        config=config,
    )


def of_source(file: TopicsFile, lanes: int, replication: int, partner: str, source: str) -> list[Topic]:
    """The topics of one event source."""
    names = {"partner": partner, "source": source}
    return [_concrete(file, t, lanes, replication, names) for t in file.topics if _placeholders(t) == _OF_SOURCE]


def of_integration(
    file: TopicsFile, lanes: int, replication: int, partner: str, integration: str, tiers: Iterable[str]
) -> list[Topic]:
    """The topics of one integration: dispatch, a retry topic per distinct delay (``5s``, ``5m``, …), undeliverable."""
    names = {"partner": partner, "integration": integration}
    delays = list(dict.fromkeys(tiers))
    topics: list[Topic] = []
    for template in file.topics:
        if _placeholders(template) == _OF_INTEGRATION:
            topics.append(_concrete(file, template, lanes, replication, names))
        elif _placeholders(template) == _OF_TIER:
            topics += [_concrete(file, template, lanes, replication, names | {"tier": tier}) for tier in delays]
    return topics


def expand(
    file: TopicsFile,
    lanes: int,
    replication: int,
    *,
    sources: Iterable[tuple[str, str]] = (),
    integrations: Iterable[tuple[str, str]] = (),
    tiers: Iterable[str] = (),
) -> list[Topic]:
    """Every topic there should be, given (partner, source) and (partner, integration) pairs."""
    tiers = list(tiers)
    wanted: list[Topic] = []
    for template in file.topics:
        placeholders = _placeholders(template)
        if not placeholders:
            wanted.append(_concrete(file, template, lanes, replication, {}))
        elif placeholders == _OF_ROLE:
            wanted += [_concrete(file, template, lanes, replication, {"role": role}) for role in ROLES]
    for partner, source in sources:
        wanted += of_source(file, lanes, replication, partner, source)
    for partner, integration in integrations:
        wanted += of_integration(file, lanes, replication, partner, integration, tiers)
    return wanted
