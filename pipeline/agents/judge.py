"""Intake's judgement of one raw record: an event with all that the edge and the source know, or a reason not to.

Pure: bytes, headers and the source in, bytes out. Fast: one decode, one encode, properties passed through. What a
source's policy asks beyond that (`pipeline.events`) costs those alone that have one.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from pipeline.events.addresses import kept_address
from pipeline.events.facts import CountryOf, facts, flags_of
from pipeline.events.rules import Rules
from pipeline.events.verdicts import RejectError
from pipeline.models.control import Source
from pipeline.models.event import ANONYMOUS, TEST, TRANSIENT, Event, strongest
from pipeline.models.failures import REASONS, Rejected
from pipeline.models.fast import NULL, struct_for
from pipeline.models.phone import e164
from pipeline.models.raw import KIND_NAMES, MAX_EVENT_BYTES, RawEvent
from pipeline.stream.dead_letters import APPENDED, ORIGINAL, Place

__all__ = [
    "Edge",
    "Header",
    "Judged",
    "RejectError",
    "admit",
    "edge_of",
    "first_id",
    "judge",
    "judge_event",
    "parse_ms",
    "rejected",
]

Header = tuple[str, bytes | None]
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
#: The headers that are read here.
_EDGE = frozenset(
    {
        "ce_id",
        "ce_source",
        "ce_time",
        "headrace_flags",
        "headrace_gpc",
        "headrace_ip",
        "headrace_origin",
        "headrace_ua",
        APPENDED,
        ORIGINAL,
    }
)
#: (key, value) of the record for `events`.
Judged = tuple[bytes, bytes]
Edge = dict[str, str]


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
    headers: Sequence[Header],
    *,
    appended: int,
    control: int,
    fallback_id: str,
    rules: Rules | None = None,
    country_of: CountryOf | None = None,
) -> Judged:
    """The validated event of a raw record, of a source that has neither a mapping nor a rule of consent.

    ``appended``: the broker's time of it (ms); ``control``: the offset of the control log it is judged at;
    ``fallback_id``: a message id for an event that brings none, the same on every reading of the record;
    ``rules``: the source's policy, compiled; compiled here where left out. Raises RejectError.
    """
    rules = admit(source, value, rules)
    edge = edge_of(headers) if headers else {}
    return judge_event(rules, value or b"", edge, appended, control, fallback_id, country_of)


def admit(source: Source | None, value: bytes | None, rules: Rules | None) -> Rules:
    """The source is there, active and readable, and there is a value of a size that is taken. Raises RejectError."""
    if source is None:
        raise RejectError("unknown_source", REASONS["unknown_source"])
    if source.removed or not source.active:
        state = "removed" if source.removed else "switched off"
        raise RejectError("inactive_source", f"source {source.id} ({source.name}) is {state}")
    if not value:
        raise RejectError("empty", REASONS["empty"])
    if len(value) > MAX_EVENT_BYTES:
        raise RejectError("too_large", f"{len(value)} bytes; at most {MAX_EVENT_BYTES}")
    if rules is None:
        rules = Rules(source)
    if rules.fault is not None:
        raise RejectError("policy", f"the policy of source {source.id} can't be read: {rules.fault}")
    return rules


def judge_event(
    rules: Rules,
    value: bytes,
    edge: Edge,
    appended: int,
    control: int,
    fallback_id: str,
    country_of: CountryOf | None,
    nobody: bool = False,
) -> Judged:
    """The event in ``value``, JSON in the shape of the raw contract. ``nobody``: without whose it is.

    One function, though a long one: it runs for every event, and a call costs more than most of its lines.
    Raises RejectError.
    """
    source = rules.source
    raw, properties, traits, context = _parse(value)
    _check_key(source, raw.writeKey, edge.get("ce_source"))
    origin = edge.get("headrace_origin")
    if origin is not None and not source.allows_origin(origin):
        raise RejectError("wrong_domain", f"origin {origin[:200]} is not {source.domain}, the domain of {source.id}")

    kind = raw.type
    name = raw.event if kind == "track" else KIND_NAMES[kind]
    if not name:
        raise RejectError("no_event_name", REASONS["no_event_name"], "$.event")
    message_id = raw.messageId or edge.get("ce_id") or first_id(edge, source.topic) or fallback_id
    user = _identity(raw.userId)
    visitor = _identity(raw.anonymousId)
    email, phone = _contact(raw, traits, context, source.policy.region)
    key = strongest(source.partner, user, visitor, email, phone)
    if key is None:
        if not nobody:
            raise RejectError("no_identity", REASONS["no_identity"], "$.userId")
        # Nobody's: spread over the lanes, a repeat to the same one.
        key = f"{source.partner}|n|{message_id}"
    if rules.strict:
        rules.check(name, properties, _decode_any(value) if rules.whole else None)

    received = _received(edge.get("ce_time") or edge.get(APPENDED), appended)
    time, future = _time(raw, received)
    address, agent, said = edge.get("headrace_ip"), edge.get("headrace_ua"), edge.get("headrace_flags")
    given = flags_of(said) if said else ()
    found, bot = None, None
    if context is not None or agent is not None or address is not None or given or kind == "page":
        page = properties if kind == "page" else None
        found, bot = facts(context, page, agent, address, given, country_of, rules.pages)
    test = context is not None and context.get("test") is True
    changed = nobody or rules.cut
    kept: Any = None
    if context is not None:
        kept = _kept_context(raw.context, context, rules, nobody) if changed else raw.context
    event = _EventStruct(
        id=message_id,
        partner=source.partner,
        source=source.id,
        channel=source.channel,
        type=kind,
        name=name,
        time=time,
        received=received,
        user_id=user,
        anonymous_id=visitor,
        email=email,
        phone=phone,
        properties=raw.properties if properties is not None else None,
        traits=raw.traits if traits is not None else None,
        context=kept,
        ip=kept_address(None if nobody else address, source.policy.ip) if changed else address,
        ua=None if nobody else agent,
        control=control,
        flags=["future"] if future else [],
        facts=msgspec.Raw(found) if found is not None else None,
    )
    if given or bot or test or nobody or rules.transient:
        event.flags += _flags(given, bot, test, nobody, rules.transient)
    if kind != "track" and raw.name:
        event.properties = _with_name(event.properties, raw.name)
    return key.encode(), _encode(event)


def _flags(given: Sequence[str], bot: str | None, test: bool, nobody: bool, transient: bool) -> list[str]:
    flags = list(given)
    if bot:
        flags.append("bot")
    if test and TEST not in flags:
        flags.append(TEST)
    if nobody:
        flags.append(ANONYMOUS)
    if transient:
        flags.append(TRANSIENT)
    return flags


def _kept_context(raw: msgspec.Raw, context: dict[str, Any], rules: Rules, nobody: bool) -> Any:
    """The context as it came, but for what the source's policy takes out of it."""
    if nobody:
        left = {name: value for name, value in context.items() if name not in ("userAgent", "ip")}
        if type(left.get("page")) is dict:
            left["page"] = {name: value for name, value in left["page"].items() if name in ("path", "title")}
        return left
    if "ip" not in context:
        return raw
    address = context["ip"]
    kept = kept_address(address, rules.source.policy.ip) if type(address) is str else None
    left = {name: value for name, value in context.items() if name != "ip"}
    return left | {"ip": kept} if kept is not None else left


_Part = dict[str, Any] | None


def _parse(value: bytes) -> tuple[Any, _Part, _Part, _Part]:
    """The raw event, and its properties, traits and context decoded (None: missing or null)."""
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
    properties, traits, context = raw.properties, raw.traits, raw.context
    try:
        return (
            raw,
            None if properties is NULL else _part(properties, "$.properties"),
            None if traits is NULL else _part(traits, "$.traits"),
            None if context is NULL else _part(context, "$.context"),
        )
    except RecursionError:
        raise RejectError("not_json", "nested too deeply") from None


def _part(part: msgspec.Raw, path: str) -> _Part:
    """A part that is passed on must be an object or null, and one that fan-out can decode."""
    content = bytes(part)
    if content[:1] == b"{":
        # The decode before skipped it: structure alone was checked, not its text and numbers.
        try:
            decoded: dict[str, Any] = _decode_any(content)
            return decoded
        except msgspec.ValidationError as error:
            raise RejectError("shape", str(error)[:300], path) from None
    if content != b"null":
        raise RejectError("shape", "Expected `object | null`", path)
    return None


def edge_of(headers: Sequence[Header]) -> Edge:
    """Headers as text; what is not UTF-8 or longer than 2,000 bytes is left out, since nobody vouches for it."""
    known: Edge = {}
    for name, content in headers:
        if name in _EDGE and content is not None and len(content) <= 2000:
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


def _contact(raw: Any, traits: _Part, context: _Part, region: str | None) -> tuple[str | None, str | None]:
    """E-mail and phone among the traits, or those of the context. A number that is none stays as it came."""
    # The traits of a group call are the group's.
    if raw.traits is NULL or raw.type == "group":
        inner = context.get("traits") if context is not None else None
        traits = inner if type(inner) is dict else None
    if not traits:
        return None, None
    phone = _text(traits.get("phone"))
    return _text(traits.get("email")), phone and (e164(phone, region) or phone)


def _text(value: Any) -> str | None:
    return (value.strip() or None) if isinstance(value, str) and len(value) <= 320 else None


def first_id(edge: dict[str, str], topic: str) -> str | None:
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
    headers: Sequence[Header],
    source: Source | None = None,
) -> bytes:
    """The record for `rejected`: the reason and the original bytes, as far as ``source``'s policy lets them be kept."""
    _, _, rest = topic.partition(".")
    partner, _, name = rest.partition(".")
    detail = error.detail
    if error.withhold:
        # The sentence may quote what it is about.
        key, value, headers, detail = None, None, [], REASONS[error.reason]
    elif source is not None and source.policy.ip != "keep":
        headers = [_header(header, source) for header in headers]
    encoded = b64encode(value).decode() if value is not None else None
    return Rejected(
        reason=error.reason,
        detail=detail,
        path=error.path,
        partner=partner,
        source=name,
        topic=topic,
        partition=partition,
        offset=offset,
        received=timestamp,
        key=b64encode(key).decode() if key is not None else None,
        value=encoded,
        headers=[(name, b64encode(content or b"").decode()) for name, content in headers],
        withheld=error.withhold,
    ).to_json()


def _header(header: Header, source: Source) -> Header:
    name, content = header
    if name != "headrace_ip" or content is None:
        return header
    return name, (kept_address(content.decode("utf-8", "replace"), source.policy.ip) or "").encode()
