"""The shape of a tool: what it is asked, and what its answer means. One file a tool; no I/O, no Kafka."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.dispatch.schedule import Schedule
from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch, Outcome

__all__ = ["Classified", "Request", "SetupError", "Sink", "SinkConfig", "iso"]


class SetupError(Exception):
    """The integration can't work as it is set up; its records are kept until it is edited. Says what to do."""


class Classified(NamedTuple):
    """What an answer means. ``retry_after``: seconds that the tool asks to wait, None when it doesn't."""

    outcome: Outcome
    detail: str = ""
    retry_after: float | None = None


class SinkConfig(BaseModel):
    """Settings that every integration has; a tool's own model adds to them.

    ``retry_schedule``: delays between attempts (``5s,5m,2h``), the process' own when left out.
    ``max_in_flight``: requests at one time, over the lanes of a process. ``timeout_s``: of a whole request.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    retry_schedule: str | None = None
    max_in_flight: int = Field(64, ge=1, le=1000)
    timeout_s: float = Field(15.0, gt=0, le=60)

    @field_validator("retry_schedule")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            Schedule.parse(value)
        return value


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. ``secret_headers``: names (lower case) whose values no log may hold."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    secret_headers: frozenset[str] = frozenset()


ConfigT = TypeVar("ConfigT", bound=SinkConfig)


class Sink(ABC, Generic[ConfigT]):
    """A tool. ``kind``: what an integration names; ``Config``: the model of the integration's settings.

    How the tool is told that two requests are one (its dedup key) is set in `request`, from ``dispatch.id``.
    """

    kind: ClassVar[str]
    Config: type[ConfigT]

    def config(self, settings: Mapping[str, Any]) -> ConfigT:
        """The integration's settings, checked. Raises SetupError, naming the setting."""
        try:
            return self.Config.model_validate(settings)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "settings"
            raise SetupError(f"setting {where} of this {self.kind} integration: {first['msg']}") from None

    @abstractmethod
    def request(self, dispatch: Dispatch, config: ConfigT, secret: str | None, now: Millis) -> Request:
        """The request that delivers ``dispatch``, at ``now`` (ms since 1970).

        Raises SetupError; ValueError or TypeError for a record that no request can be made of.
        """

    @abstractmethod
    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """What an answer means (design: delivery). ``headers``: names in lower case; ``body``: at most 64 KB."""


def iso(moment: Millis) -> str:
    """RFC 3339 in UTC, to the millisecond: ``2026-01-31T12:00:00.000Z``. Raises ValueError out of range."""
    try:
        text = datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, OSError) as error:
        raise ValueError(f"{moment} is no moment: {error}") from None
    return text.replace("+00:00", "Z")
