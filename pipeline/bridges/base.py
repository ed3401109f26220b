"""The shape of a bridge: the bytes of a protocol in, raw events out. One file a bridge; no I/O, no Kafka."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import orjson

from pipeline.models.base import Millis
from pipeline.models.control import Source

__all__ = ["Bridge", "BridgeRequest", "Fault", "Parsed", "RawOut", "Refused", "decode_object"]


class Refused(Exception):
    """The whole request is refused. ``status``: the HTTP status; ``path``: where in the body, if anywhere."""

    def __init__(self, status: int, code: str, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.path = path


@dataclass(frozen=True, slots=True)
class BridgeRequest:
    """What came in. ``kind``: the last part of the path (``track``, ``batch``, …), the protocol's own word.

    ``headers``: names in lower case. ``body``: as sent, decompressed only for protocols that say so.
    ``document``: the decoded body where the gateway has read it already to find the key.
    """

    kind: str
    headers: Mapping[str, str]
    body: bytes
    document: dict[str, Any] | None = None


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
class Parsed:
    """Events to record (none is fine: a ping) and those refused one by one."""

    events: Sequence[RawOut]
    faults: Sequence[Fault] = field(default=())


class Bridge(Protocol):
    """A protocol. Modules of this package each hold one; `registry` knows them by name."""

    name: str

    def parse(self, request: BridgeRequest, source: Source, secrets: Sequence[bytes], now_ms: Millis) -> Parsed:
        """The events in ``request``, for ``source`` (already admitted), at ``now_ms`` by the server's clock.

        ``secrets``: the source's signing secrets, any of which may have signed. Raises `Refused`.
        """
        ...


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
