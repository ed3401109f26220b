"""A dispatch record as the engine handles it: checked, with event and customer left as the bytes they are."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import msgspec
from aiokafka import ConsumerRecord

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.models.fast import struct_for

__all__ = [
    "MAX_BYTES",
    "MAX_KEY",
    "Place",
    "Unreadable",
    "delayed",
    "give_up",
    "headers_of",
    "place_of",
    "read_dispatch",
]

#: Of a dispatch record; the rest up to the topic's 2 MiB is for what is wrapped around it.
MAX_BYTES = 1_900_000
#: Bytes of a record's key.
MAX_KEY = 10_000
#: Characters of what stands in every entry of the delivery log; fan-out's are far shorter.
_MAX_ID, _MAX_NAME = 200, 2_000
#: Attempts come from schedules; what is beyond is no count.
_MAX_ATTEMPT = 1_000
_KEPT_BYTES = 1_000_000
_KEPT_DETAIL = 2_000

_Struct: Any = struct_for(Dispatch, raw=frozenset({"event", "customer"}))
_decode = msgspec.json.Decoder(_Struct).decode
_encode = msgspec.json.Encoder().encode


class Unreadable(Exception):
    """The record is not one of `models.delivery.Dispatch` for this integration."""


class Place(NamedTuple):
    """Where a record of a retry topic stands in its customer's order (see `barrier`), from its headers."""

    origin: int
    hop: int


def read_dispatch(value: bytes | None, partner: str, integration: str) -> Any:
    """The record's fields, ``event`` and ``customer`` as raw JSON. Raises `Unreadable`."""
    if not value:
        raise Unreadable("the record has no value")
    if len(value) > MAX_BYTES:
        raise Unreadable(f"the record has {len(value):,} bytes; at most {MAX_BYTES:,} can be retried")
    try:
        found = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"not a dispatch record: {error}") from None
    if (found.partner, found.integration) != (partner, integration):
        raise Unreadable("the record names another integration than its topic does")
    if len(found.id) > _MAX_ID or len(found.name) > _MAX_NAME:
        raise Unreadable(f"$.id has at most {_MAX_ID:,} characters, $.name at most {_MAX_NAME:,}")
    if not 0 <= found.attempt <= _MAX_ATTEMPT:
        raise Unreadable(f"$.attempt is 0 to {_MAX_ATTEMPT:,}")
    return found


def headers_of(place: Place) -> list[tuple[str, bytes]]:
    """The headers of a record in a retry topic."""
    return [("origin", str(place.origin).encode()), ("hop", str(place.hop).encode())]


def place_of(record: ConsumerRecord) -> Place | None:
    """The place that the headers of a retry record name; None where they do not."""
    found = dict(record.headers)
    try:
        return Place(int(found["origin"]), int(found["hop"]))
    except (KeyError, TypeError, ValueError):
        return None


def delayed(dispatch: Any, attempt: int, due: Millis, first_failed: Millis | None) -> bytes:
    """The value for a retry topic."""
    changes = {"attempt": attempt, "due": due, "first_failed": first_failed}
    return _encode(msgspec.structs.replace(dispatch, **changes))


def give_up(dispatch: Any | None, record: ConsumerRecord, reason: str, detail: str, now: Millis) -> bytes:
    """A value of `models.delivery.Undeliverable`; without ``dispatch``, the record's bytes are kept."""
    value: dict[str, Any] = {
        "dispatch": dispatch,
        "reason": reason,
        "detail": detail[:_KEPT_DETAIL],
        "at": now,
        "place": f"{record.topic}/{record.partition}/{record.offset}",
    }
    if dispatch is None and record.value is not None:
        value["value"] = base64.b64encode(record.value[:_KEPT_BYTES]).decode()
    return _encode(value)
