"""The shape of a bridge: the bytes of a protocol in, raw events out. One file a bridge.

A bridge is pure (`Bridge`): no I/O, no Kafka. One that must fetch what it takes in (a queue, a mailbox, a folder) has a
`Feed` beside it, in the same file: the connection, and nothing else. docs/bridges/how-to-add.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import orjson
from pydantic import BaseModel

from pipeline.guard import Guard
from pipeline.models.base import Millis
from pipeline.models.control import Source

__all__ = [
    "FORGET",
    "Answer",
    "Bridge",
    "BridgeRequest",
    "Door",
    "Fault",
    "Feed",
    "NoSettings",
    "Opening",
    "Parcel",
    "Parsed",
    "RawOut",
    "Refused",
    "SetupFault",
    "Stream",
    "decode_object",
]

#: Where a bridge is reached. ``tracking``: ``/v1/track`` and the other calls of Segment's protocol; ``webhook``:
#: ``/v1/webhooks/<partner>/<code>``; ``link``: tracked links and pixels; ``server``: a route of its own that wants a
#: secret key; ``feed``: it fetches by itself, in the bridge role; ``topic``: producers write to the raw topic.
Door = Literal["tracking", "webhook", "link", "server", "feed", "topic"]


class NoSettings(BaseModel):
    """A bridge that has none."""

    model_config = {"extra": "forbid"}


class Refused(Exception):
    """The whole request is refused. ``status``: the HTTP status; ``path``: where in the body, if anywhere;
    ``retry_after``: seconds after which it may be taken.
    """

    def __init__(
        self, status: int, code: str, message: str, path: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.path = path
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class BridgeRequest:
    """What came in. ``kind``: the last part of the path (``track``, ``batch``, …), the protocol's own word.

    ``headers``: names in lower case. ``body``: as sent, decompressed only for protocols that say so.
    ``document``: the decoded body where the gateway has read it already to find the key. ``url``: the address as the
    client called it, query included (the public one behind a proxy); "" where there is none. ``id``: a parcel's.
    """

    kind: str
    headers: Mapping[str, str]
    body: bytes
    document: dict[str, Any] | None = None
    url: str = ""
    id: str = ""


class RawOut(NamedTuple):
    """One record for the source's raw topic; ``key``: its strongest identifier, UTF-8; ``value``: JSON."""

    key: bytes
    value: bytes
    message_id: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One event of a batch that is refused while others are taken. ``code`` as in `failures.REASONS`."""

    index: int
    code: str
    message: str
    path: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a protocol wants to hear, where that is not our own JSON: a challenge echoed, TwiML, a pixel."""

    body: bytes
    media_type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Parsed(NamedTuple):
    """Events to record (none is fine: a ping), those refused one by one, and the answer if it is a special one.

    ``flags``: verdicts on the request, for the header ``headrace_flags`` of all its events.
    """

    events: Sequence[RawOut]
    faults: Sequence[Fault] = ()
    answer: Answer | None = None
    flags: Sequence[str] = ()


class Bridge(Protocol):
    """A protocol. Modules of this package each hold one; `registry` knows them by name.

    ``channel``: what a source of it is set to unless told otherwise. ``Settings``: the model of the source's
    ``settings``, checked by the API when a source is saved; its field descriptions are what people read. ``title``: a
    line for people.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def door(self) -> Door: ...
    @property
    def channel(self) -> str: ...
    @property
    def Settings(self) -> type[BaseModel]: ...

    def parse(self, request: BridgeRequest, source: Source, secrets: Sequence[bytes], now_ms: Millis) -> Parsed:
        """The events in ``request``, for ``source`` (already admitted), at ``now_ms`` by the server's clock.

        ``secrets``: the source's signing secrets, any of which may have signed. Raises `Refused`.
        """
        ...


#: As a parcel's position: there is nothing more to remember of its place.
FORGET: Any = object()


class Parcel(NamedTuple):
    """One message from an origin. ``id``: the same whenever it is taken again, so that a repeat does not count.

    ``body``: None where there is nothing to record, and the position alone moves on.
    ``position``: how far the origin is with this parcel done, JSON, for origins that do not remember it themselves (a
    mailbox, a folder), and to know a repeat again. It is committed with the raw events, in one transaction. ``place``:
    what the position is of, where an origin has several (the files of a folder).
    """

    id: str
    body: bytes | None
    headers: Mapping[str, str]
    position: Any = None
    place: str = ""


class Stream(Protocol):
    """An open connection to an origin. Cancelling any call is safe."""

    @property
    def lag(self) -> int | None:
        """Messages that wait at the origin, as far as it told; None where it does not."""
        ...

    async def take(self, timeout: float) -> Sequence[Parcel]:
        """What has come, in order; [] when nothing came in ``timeout`` seconds. At most what is to be committed in one
        transaction (some thousand parcels, some megabytes). Raises OSError when the line is cut.
        """
        ...

    async def done(self, parcels: Sequence[Parcel]) -> None:
        """Our broker has them: acknowledge them at the origin. What was not is delivered again. Raises OSError."""
        ...


@dataclass(frozen=True)
class Opening:
    """What a feed is opened with. ``settings``: the bridge's model. ``secret``: as it was set, None without one.

    ``positions``: the last one committed, by place. ``number``: which of the source's consumers this is, from 0.
    ``guard``: which addresses may be reached. ``folders``: what of this machine may be read.
    """

    source: Source
    settings: Any
    secret: str | None
    positions: Mapping[str, Any]
    number: int
    guard: Guard
    folders: Sequence[Path] = ()


class Feed(Bridge, Protocol):
    """A bridge that fetches. Each parcel is handed to `parse` as a `BridgeRequest` of kind ``feed``.

    A source runs in as many places at a time as its settings say by ``consumers``; in one where they don't.
    """

    def open(self, opening: Opening) -> AbstractAsyncContextManager[Stream]:
        """Connect. Raises OSError (tried again, with back-off) and `SetupFault` (shown as the source's state, tried
        again when the source is edited, and now and then).
        """
        ...


class SetupFault(Exception):
    """The source can't work as it is set up; says what to do."""


def decode_object(body: bytes) -> dict[str, Any]:
    """The body as one JSON object, whatever its content type says. Raises `Refused` 400."""
    if not body.strip():
        raise Refused(400, "empty", "the body is empty; send the event as JSON")
    try:
        document = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise Refused(400, "not_json", f"the body is not UTF-8 JSON: {error}") from None
    if not isinstance(document, dict):
        raise Refused(400, "not_an_object", "the body must be one JSON object", "$")
    return document
