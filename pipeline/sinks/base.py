"""The shape of a tool: what it is asked, and what its answer means. One file a tool; no I/O, no Kafka."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.dispatch.schedule import Schedule
from pipeline.models.base import Millis, Slug
from pipeline.models.delivery import Dispatch, Outcome
from pipeline.models.window import Duration
from pipeline.sinks.told import Told, check_mapping, tell

__all__ = [
    "Asked",
    "BatchConfig",
    "BatchSink",
    "Classified",
    "Request",
    "SetupError",
    "Sink",
    "SinkConfig",
    "iso",
]

_BODY_CHARACTERS = 10_000


class SetupError(Exception):
    """The integration can't work as it is set up; its records are kept until it is edited. Says what to do."""


class Classified(NamedTuple):
    """What an answer means. ``retry_after``: seconds that the tool asks to wait, None when it doesn't."""

    outcome: Outcome
    detail: str = ""
    retry_after: float | None = None

    def saying(self, why: str) -> Classified:
        """With the tool's own words, where there are any, of what it did not take."""
        return self._replace(detail=f"{self.detail}: {why}") if why and self.outcome != "ok" else self


class SinkConfig(BaseModel):
    """Settings that every integration has; a tool's own model adds to them.

    ``retry_schedule``: delays between attempts (``5s,5m,2h``), the process' own when left out.
    ``max_in_flight``: requests at one time, over the lanes of a process. ``timeout_s``: of a whole request.
    ``mapping``: field -> expression, before the preset (`told`). ``selector``: what the tool knows a customer by first.
    ``rate``, ``burst``: requests a second over all processes, the tool's own when left out. ``when_unsure``: what
    becomes of a record whose request may have arrived, but got no answer. ``breaker``: failures in a row, over 10 s at
    least, after which nothing is asked for 30 s, doubling to 5 min; 0: never. ``disable_after``: of nothing but
    failures, the integration is switched off (empty: never), and ``notify``, another integration, is told.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    retry_schedule: str | None = None
    max_in_flight: int = Field(64, ge=1, le=1000)
    timeout_s: float = Field(15.0, gt=0, le=60)
    mapping: dict[str, Any] = Field(default_factory=dict)
    selector: Literal["email", "phone"] = "email"
    rate: float | None = Field(None, gt=0, le=100_000)
    burst: int | None = Field(None, ge=1, le=100_000)
    when_unsure: Literal["retry", "park"] = "retry"
    breaker: int = Field(20, ge=0, le=10_000)
    disable_after: Literal[""] | Duration = "5d"
    notify: Slug | None = None

    @field_validator("mapping")
    @classmethod
    def _mapped(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_mapping(value)
        return value

    @field_validator("retry_schedule")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            Schedule.parse(value)
        return value


class BatchConfig(SinkConfig):
    """Of a tool that takes many records in a request. ``batch``: at most so many, the tool's own limit when left out;
    ``linger_ms``: how long a record waits for company."""

    batch: int | None = Field(None, ge=1, le=10_000)
    linger_ms: int = Field(50, ge=0, le=10_000)


class Asked(Protocol):
    """What a transport carries to a tool; its type says by which (`transports`)."""

    def shown(self) -> dict[str, Any]:
        """As the delivery log may have it: no credentials, bounded."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. ``secret_headers``: names (lower case) whose values no log may hold; values of the address'
    query are never shown. ``secret_path``: the address' path is a credential too (Slack's). ``instead``: shown in place
    of a body that nobody can read."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    secret_headers: frozenset[str] = frozenset()
    secret_path: bool = False
    instead: str | None = None

    def shown(self) -> dict[str, Any]:
        """As the delivery log may have it."""
        return {
            "method": self.method,
            "url": _masked(self.url, self.secret_path),
            "headers": {n: "***" if n in self.secret_headers else value for n, value in self.headers.items()},
            "body": self.instead or self.body[: 4 * _BODY_CHARACTERS].decode(errors="replace")[:_BODY_CHARACTERS],
        }


@lru_cache(1024)
def _masked(url: str, secret_path: bool) -> str:
    """An integration's address is the same each time: taking it apart took as long as signing a request."""
    parts = urlsplit(url)
    query = "&".join(f"{pair.partition('=')[0]}=***" for pair in parts.query.split("&")) if parts.query else ""
    return parts._replace(path="/***" if secret_path else parts.path, query=query, fragment="").geturl()


ConfigT = TypeVar("ConfigT", bound=SinkConfig)


class Sink(ABC, Generic[ConfigT]):
    """A tool. ``kind``: what an integration names; ``Config``: the model of the integration's settings.

    How the tool is told that two requests are one (its dedup key) is set in `request`, from ``dispatch.id``.
    """

    kind: ClassVar[str]
    Config: type[ConfigT]
    #: Requests a second, and at once, that the tool takes, by its documents; None: they don't say.
    rate: ClassVar[float | None] = None
    burst: ClassVar[int | None] = None

    def config(self, settings: Mapping[str, Any]) -> ConfigT:
        """The integration's settings, checked. Raises SetupError, naming the setting."""
        try:
            return self.Config.model_validate(settings)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "settings"
            raise SetupError(f"setting {where} of this {self.kind} integration: {first['msg']}") from None

    def told(self, dispatch: Dispatch, config: ConfigT) -> Told:
        """What there is to tell, mapped. Raises ValueError."""
        return tell(dispatch, config.mapping)

    def limits(self, config: ConfigT) -> tuple[float | None, int | None]:
        """`rate` and `burst`, where they depend on the settings."""
        return self.rate, self.burst

    @abstractmethod
    def request(self, dispatch: Dispatch, config: ConfigT, secret: str | None, now: Millis) -> Asked:
        """The request that delivers ``dispatch``, at ``now`` (ms since 1970).

        Raises SetupError; ValueError or TypeError for a record that no request can be made of.
        """

    @abstractmethod
    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """What an answer means (design: delivery). ``headers``: names in lower case; ``body``: at most 64 KB."""

    def probe(self, config: ConfigT, secret: str | None, now: Millis) -> Asked | None:
        """A request that shows whether the set-up is right and tells nobody of anything; `classify` reads its answer.

        None where the tool has no such request. Raises SetupError.
        """
        return None


BatchConfigT = TypeVar("BatchConfigT", bound=BatchConfig)


class BatchSink(Sink[BatchConfigT]):
    """A tool that takes many records in one request. ``most`` records, ``most_bytes`` of their parts.

    Records that wait together are of different customers: each customer's are sent one after the other. ``whole``: the
    delivery log has of each record the request that it went in, not what it would be alone: that of a file says how
    large it was, not what is in it, and its name is that of all; and it takes long to make.
    """

    most: ClassVar[int]
    most_bytes: ClassVar[int] = 1 << 20
    whole: ClassVar[bool] = False

    @abstractmethod
    def part(self, dispatch: Dispatch, config: BatchConfigT, now: Millis) -> bytes:
        """What stands for one record in a request, the dedup key in it. Raises as `request`."""

    @abstractmethod
    def request_of(self, parts: Sequence[bytes], config: BatchConfigT, secret: str | None, now: Millis) -> Asked:
        """The request of one or more parts. Raises SetupError."""

    def request(self, dispatch: Dispatch, config: BatchConfigT, secret: str | None, now: Millis) -> Asked:
        """Of one record alone."""
        return self.request_of([self.part(dispatch, config, now)], config, secret, now)

    def classify_each(
        self, status: int, headers: Mapping[str, str], body: bytes, parts: Sequence[bytes]
    ) -> Classified | list[Classified]:
        """What the answer means for each of ``parts``, or for all of them.

        ``invalid`` for all has each sent alone, so it is said only where none was taken.
        """
        return self.classify(status, headers, body)


def iso(moment: Millis) -> str:
    """RFC 3339 in UTC, to the millisecond: ``2026-01-31T12:00:00.000Z``. Raises ValueError out of range."""
    try:
        text = datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, OSError) as error:
        raise ValueError(f"{moment} is no moment: {error}") from None
    return text.replace("+00:00", "Z")
