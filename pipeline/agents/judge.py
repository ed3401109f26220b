"""Intake's judgement of one raw record: an event with all that the edge and the source know, or a reason not to.

Pure: bytes, headers and the source in, bytes out. Fast: one decode, one encode, properties passed through.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from pipeline.models.control import Source
from pipeline.models.event import Event, strongest
from pipeline.models.failures import REASONS, Rejected
from pipeline.models.fast import NULL, struct_for
from pipeline.models.phone import e164
from pipeline.models.raw import KIND_NAMES, MAX_EVENT_BYTES, RawEvent
from pipeline.stream.dead_letters import APPENDED, ORIGINAL, Place

__all__ = ["Judged", "RejectError", "judge", "parse_ms", "rejected"]

#: Parts that intake passes on as they came.
_RAW = frozenset({"properties", "traits", "context"})
_decode = msgspec.json.Decoder(struct_for(RawEvent, raw=_RAW)).decode
_EventStruct: Any = struct_for(Event)
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Milliseconds before this would be 1973; a number so small is a count of seconds.
_SMALLEST_MS = 100_000_000_000
_LATEST_MS = 253_402_300_799_999


class _Person(msgspec.Struct, gc=False):
    email: Any = None
    phone: Any = None


class _Context(msgspec.Struct, gc=False):
    traits: msgspec.Raw = msgspec.Raw(b"null")


_person = msgspec.json.Decoder(_Person).decode
_context = msgspec.json.Decoder(_Context).decode

#: (key, value) of the record for `events`.
Judged = tuple[bytes, bytes]


class RejectError(Exception):
    """The record breaks its contract: a code of REASONS, what is wrong, where."""

    def __init__(self, reason: str, detail: str, path: str | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.path = path


def parse_ms(value: str | int | float, path: str) -> int:
    """RFC 3339 text or milliseconds since 1970, as milliseconds.

    Raises RejectError ``bad_time`` for anything else, years before 1970 and after 9999, and counts of seconds.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            delta = moment - _EPOCH
        except (ValueError, OverflowError):
            raise RejectError(
                "bad_time", f"{value[:60]!r} is no RFC 3339 time such as 2026-01-31T12:00:00Z", path
            ) from None
        ms = delta.days * 86_400_000 + delta.seconds * 1000 + delta.microseconds // 1000
        if ms < 0:
            raise RejectError("bad_time", f"{value[:60]!r} is before 1970", path)
        return ms
    if not _SMALLEST_MS <= value <= _LATEST_MS:
        raise RejectError("bad_time", f"{value!r} is no count of milliseconds since 1970 (seconds, perhaps?)", path)
    return int(value)


def judge(
    source: Source | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    *,
    appended: int,
    control: int,
    fallback_id: str,
) -> Judged:
    """The validated event of a raw record.

    ``appended``: the broker's time of it (ms); ``control``: the offset of the control log it is judged at;
    ``fallback_id``: a message id for an event that brings none, the same on every reading of the record.
    Raises RejectError.
    """
    if source is None:
        raise RejectError("unknown_source", REASONS["unknown_source"])
    if source.removed or not source.active:
        state = "removed" if source.removed else "switched off"
        raise RejectError("inactive_source", f"source {source.id} ({source.name}) is {state}")
    if not value:
        raise RejectError("empty", REASONS["empty"])
    if len(value) > MAX_EVENT_BYTES:
        raise RejectError("too_large", f"{len(value)} bytes; at most {MAX_EVENT_BYTES}")
    raw = _parse(value)
    edge = _edge(headers) if headers else {}
    _check_key(source, raw.writeKey, edge.get("ce_source"))
    origin = edge.get("headrace_origin")
    if origin is not None and not source.allows_origin(origin):
        raise RejectError("wrong_domain", f"origin {origin[:200]} is not {source.domain}, the domain of {source.id}")

    kind = raw.type
    name = raw.event if kind == "track" else KIND_NAMES[kind]
    if not name:
        raise RejectError("no_event_name", REASONS["no_event_name"], "$.event")
    user = _identity(raw.userId)
    anonymous = _identity(raw.anonymousId)
    email, phone = _contact(raw, source.policy.region)
    key = strongest(source.partner, user, anonymous, email, phone)
    if key is None:
        raise RejectError("no_identity", REASONS["no_identity"], "$.userId")

    received = _received(edge.get("ce_time") or edge.get(APPENDED), appended)
    time, future = _time(raw, received)
    event = _EventStruct(
        id=raw.messageId or edge.get("ce_id") or _first_id(edge, source.topic) or fallback_id,
        partner=source.partner,
        source=source.id,
        channel=source.channel,
        type=kind,
        name=name,
        time=time,
        received=received,
        user_id=user,
        anonymous_id=anonymous,
        email=email,
        phone=phone,
        properties=_present(raw.properties),
        traits=_present(raw.traits),
        context=_present(raw.context),
        ip=edge.get("headrace_ip"),
        ua=edge.get("headrace_ua"),
        control=control,
        flags=["future"] if future else [],
    )
    if kind != "track" and raw.name:
        event.properties = _with_name(event.properties, raw.name)
    return key.encode(), _encode(event)


def _parse(value: bytes) -> Any:
    try:
        if not value.isascii():
            value.decode()
        raw = _decode(value)
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `")
        if not path:
            raise RejectError("not_an_object", f"the value must be one JSON object: {detail}", "$") from None
        raise RejectError("shape", detail, path.rstrip("`")) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RejectError("not_json", str(error)[:300]) from None
    except RecursionError:
        raise RejectError("not_json", "nested too deeply") from None
    try:
        for path, part in (("$.properties", raw.properties), ("$.traits", raw.traits), ("$.context", raw.context)):
            if part is not NULL:
                _check(part, path)
    except RecursionError:
        raise RejectError("not_json", "nested too deeply") from None
    return raw


def _check(part: msgspec.Raw, path: str) -> None:
    """A part that is passed on must be an object or null, and one that fan-out can decode."""
    content = bytes(part)
    if content[:1] == b"{":
        # The decode above skipped it: structure alone was checked, not its text and numbers.
        try:
            _decode_any(content)
        except msgspec.ValidationError as error:
            raise RejectError("shape", str(error)[:300], path) from None
    elif content != b"null":
        raise RejectError("shape", "Expected `object | null`", path)


def _edge(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    """Headers as text; what is not UTF-8 or longer than 2,000 bytes is left out, since nobody vouches for it."""
    known: dict[str, str] = {}
    for name, content in headers:
        if content is not None and len(content) <= 2000 and name.startswith(("ce_", "headrace_")):
            try:
                known[name] = content.decode()
            except UnicodeDecodeError:
                continue
    return known


def _check_key(source: Source, *keys: str | None) -> None:
    expected = source.key
    for key in keys:
        if key is not None and key != expected:
            raise RejectError(
                "wrong_code",
                f"key {key[:120]!r} is not the key of source {source.id} ({source.name}); its key now is {expected!r}",
            )


def _identity(value: str | int | None) -> str | None:
    if value is None:
        return None
    return str(value).strip() or None


def _present(part: msgspec.Raw) -> msgspec.Raw | None:
    return None if part is NULL or bytes(part) == b"null" else part


def _contact(raw: Any, region: str | None) -> tuple[str | None, str | None]:
    """E-mail and phone among the traits, or those of the context. A number that is none stays as it came."""
    # The traits of a group call are the group's.
    traits = NULL if raw.type == "group" else raw.traits
    if traits is NULL and raw.context is not NULL and b'"traits"' in bytes(raw.context):
        traits = _context(raw.context).traits
    if traits is NULL or bytes(traits)[:1] != b"{":
        return None, None
    person = _person(traits)
    phone = _text(person.phone)
    return _text(person.email), phone and (e164(phone, region) or phone)


def _text(value: Any) -> str | None:
    return (value.strip() or None) if isinstance(value, str) and len(value) <= 320 else None


def _first_id(edge: dict[str, str], topic: str) -> str | None:
    """What ``fallback_id`` was, for a record that was parked and redriven: it is the same event at another place."""
    original = edge.get(ORIGINAL)
    place = Place.parse(original) if original else None
    return f"k:{place.partition}:{place.offset}" if place is not None and place.topic == topic else None


def _received(ce_time: str | None, appended: int) -> int:
    """When the edge received it; never later than the broker's own time, whatever a header claims."""
    if ce_time is None:
        return appended
    try:
        return min(parse_ms(ce_time, "ce_time"), appended)
    except RejectError:
        return appended


def _time(raw: Any, received: int) -> tuple[int, bool]:
    """Event time by the server's clock, and whether it lay in the future (then: received).

    received - (sentAt - originalTimestamp), as Segment's specification has it.
    """
    field = "originalTimestamp" if raw.originalTimestamp is not None else "timestamp"
    original = getattr(raw, field)
    if original is None:
        return received, False
    happened = parse_ms(original, f"$.{field}")
    if raw.sentAt is not None:
        happened = received - (parse_ms(raw.sentAt, "$.sentAt") - happened)
    if happened > received:
        return received, True
    if happened < 0:
        raise RejectError("bad_time", "sentAt and the timestamp are too far apart", "$.sentAt")
    return happened, False


def _with_name(properties: msgspec.Raw | None, name: str) -> msgspec.Raw:
    """A page's or screen's name, as the property `name`, unless it brings one."""
    if properties is None or bytes(properties) == b"{}":
        return msgspec.Raw(_encode({"name": name}))
    if b'"name"' in bytes(properties):
        return properties
    return msgspec.Raw(b'{"name":' + _encode(name) + b"," + bytes(properties)[1:])


def rejected(
    error: RejectError,
    *,
    topic: str,
    partition: int,
    offset: int,
    timestamp: int,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
) -> bytes:
    """The record for `rejected`: the reason and the original bytes."""
    _, _, rest = topic.partition(".")
    partner, _, source = rest.partition(".")
    encoded = b64encode(value).decode() if value is not None else None
    return Rejected(
        reason=error.reason,
        detail=error.detail,
        path=error.path,
        partner=partner,
        source=source,
        topic=topic,
        partition=partition,
        offset=offset,
        received=timestamp,
        key=b64encode(key).decode() if key is not None else None,
        value=encoded,
        headers=[(name, b64encode(content or b"").decode()) for name, content in headers],
    ).to_json()
