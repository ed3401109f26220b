"""Segment-compatible tracking over HTTP: track, page, screen, identify, group, alias, and batches of them.

Source: Segment's HTTP tracking API. Limits are theirs: 32 KB an event, 2,500 events a batch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, overload

import msgspec
import orjson

from pipeline.bridges.base import BridgeRequest, Door, Fault, NoSettings, Parsed, RawOut, Refused, decode_object
from pipeline.bridges.outgoing import contacts, identity, shaped
from pipeline.models.base import Millis
from pipeline.models.control import Source
from pipeline.models.event import strongest
from pipeline.models.failures import REASONS
from pipeline.models.fast import struct_for
from pipeline.models.raw import RawEvent

__all__ = ["KINDS", "MAX_BATCH_EVENTS", "MAX_EVENT_BYTES", "Opened", "SegmentBridge", "first_part", "open_body"]

MAX_EVENT_BYTES = 32 * 1024
MAX_BATCH_EVENTS = 2500

#: Last part of the path -> type of the event. The short ones are the browser library's.
KINDS: dict[str, str] = {kind: kind for kind in ("track", "page", "screen", "identify", "group", "alias", "batch")}
KINDS |= {kind[0]: kind for kind in KINDS} | {"import": "batch"}

#: `RawEvent`, telling what is missing from what is null: the quick way fills in by splicing, and only what is missing.
_TELLING = frozenset({"type", "messageId", "sentAt", "context"})
_decode_item = msgspec.json.Decoder(struct_for(RawEvent, unset=_TELLING)).decode
#: Objects and lists in an event that is passed on as it came: so many can't be nested deeper than our own encoder goes.
_MAX_PLAIN_NESTING = 200


class _Batch(msgspec.Struct, gc=False):
    """A batch with its events left as they came."""

    batch: list[msgspec.Raw]
    sentAt: str | int | float | None = None
    context: dict[str, Any] | None = None
    writeKey: str | None = None


_decode_batch = msgspec.json.Decoder(_Batch).decode


class Opened:
    """A body, decoded as far as was cheap: ``write_key`` is what it says of its own, unchecked.

    Either ``single`` (one event as a struct, its bytes in ``body``), or ``batch``, or, for what is out of the common,
    ``document``, decoded whole: that way is the rule, the other two are its short cuts, and never differ from it.
    """

    __slots__ = ("batch", "body", "document", "kind", "single")

    def __init__(self, kind: str, body: bytes, document: dict[str, Any] | None = None) -> None:
        self.kind = kind
        self.body = body
        self.single: Any = None
        self.batch: _Batch | None = None
        self.document = document

    @property
    def write_key(self) -> Any:
        if self.document is not None:
            return self.document.get("writeKey")
        return self.single.writeKey if self.batch is None else self.batch.writeKey

    @property
    def last_anonymous_id(self) -> Any:
        """Of its event, or of the last of its batch."""
        if self.single is not None:
            return self.single.anonymousId
        if self.batch is not None:
            last = orjson.loads(bytes(self.batch.batch[-1])) if self.batch.batch else None
        else:
            assert self.document is not None
            items = self.document.get("batch")
            last = items[-1] if isinstance(items, list) and items else self.document
        return last.get("anonymousId") if isinstance(last, dict) else None


def open_body(kind: str, body: bytes) -> Opened:
    """The body of a call of ``kind`` (a value of `KINDS`). Raises `Refused` 400 when it is no JSON object."""
    opened = Opened(kind, body)
    try:
        if _plain(body):
            if kind == "batch":
                opened.batch = _decode_batch(body)
                return opened
            if body[:1] == b"{":
                opened.single = _decode_item(body)
                return opened
    except (msgspec.MsgspecError, RecursionError):
        pass  # the other decoder says what is wrong, in the form that people know
    opened.document = decode_object(body)
    return opened


def _plain(body: bytes) -> bool:
    """Whether what a decoder skips is sure to be good text: UTF-8, and no half of a surrogate pair, escaped."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            return False
    return b"\\ud" not in body and b"\\uD" not in body


class SegmentBridge:
    """What stock Segment libraries send, and our tracker, by the source's public or secret key."""

    door: Door = "tracking"
    Settings = NoSettings

    def __init__(self, name: str, title: str, channel: str) -> None:
        self.name = name
        self.title = title
        self.channel = channel

    def parse(self, request: BridgeRequest, source: Source, secrets: Sequence[bytes], now_ms: Millis) -> Parsed:
        """One event, or the good ones of a batch with the faults of the others."""
        kind = KINDS[request.kind]
        opened = open_body(kind, request.body) if request.document is None else Opened(kind, b"", request.document)
        return self.parse_opened(opened, source)

    def parse_opened(self, opened: Opened, source: Source, given: str | None = None) -> Parsed:
        """As `parse`, for a body that was opened to find its key. ``given``: the key, already judged; where an event
        repeats it with its secret, it goes no further.
        """
        if opened.single is not None:
            quick = _quick(opened.single, opened.body, source, opened.kind, None, None)
            return Parsed([quick or _event({**decode_object(opened.body), "type": opened.kind}, source, given=given)])
        if opened.batch is not None:
            return _quick_batch(opened.batch, source, given)
        assert opened.document is not None
        document = opened.document
        if opened.kind != "batch":
            return Parsed([_event({**document, "type": opened.kind}, source, given=given)])
        items = document.get("batch")
        if not isinstance(items, list):
            raise Refused(400, "shape", "a batch has its events in the list `batch`", "$.batch")
        _bounded(items)
        sent, context = _shared(document)
        events: list[RawOut] = []
        faults: list[Fault] = []
        for index, item in enumerate(items):
            try:
                events.append(_event(item, source, sent, context, given))
            except Refused as fault:
                faults.append(_fault(index, fault))
        return Parsed(events, faults)


def _bounded(items: Sequence[Any]) -> None:
    if len(items) > MAX_BATCH_EVENTS:
        raise Refused(413, "too_large", f"{len(items)} events in a batch; at most {MAX_BATCH_EVENTS}", "$.batch")


def _fault(index: int, fault: Refused) -> Fault:
    return Fault(index, fault.code, fault.message, f"$.batch[{index}]{(fault.path or '$')[1:]}")


def _quick_batch(batch: _Batch, source: Source, given: str | None) -> Parsed:
    """The events of a batch spliced where they can be, else one by one as `_event` has it."""
    _bounded(batch.batch)
    sent = orjson.dumps(batch.sentAt) if batch.sentAt is not None else None
    context = orjson.dumps(batch.context) if batch.context else None
    events: list[RawOut] = []
    faults: list[Fault] = []
    for index, raw in enumerate(batch.batch):
        content = bytes(raw)
        try:
            quick = _quick_item(content, source, sent, context)
            events.append(quick or _event(_item(content), source, batch.sentAt, batch.context, given))
        except Refused as fault:
            faults.append(_fault(index, fault))
    return Parsed(events, faults)


def _quick_item(content: bytes, source: Source, sent: bytes | None, context: bytes | None) -> RawOut | None:
    if content[:1] != b"{":
        return None
    try:
        return _quick(_decode_item(content), content, source, None, sent, context)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _item(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Refused(400, "not_json", f"the event is no JSON: {error}", "$") from None


def _quick(
    item: Any, content: bytes, source: Source, kind: str | None, sent: bytes | None, context: bytes | None
) -> RawOut | None:
    """What `_event` makes, by splicing what is missing into the bytes as they came; None where that won't do.

    ``kind``: the type by the path, None in a batch. ``sent``, ``context``: a batch's own, as JSON.
    """
    front = b""
    if item.type is msgspec.UNSET:
        type_ = kind or "track"
        front = b'"type":"%b",' % type_.encode()
    else:
        type_ = item.type
        if kind is not None and type_ != kind:
            return None
    if type_ == "track" and not item.event:
        return None
    if item.writeKey is not None and item.writeKey != source.key:
        return None
    if len(content) > MAX_EVENT_BYTES or content.count(b"{") + content.count(b"[") > _MAX_PLAIN_NESTING:
        return None
    message_id = item.messageId
    if message_id is msgspec.UNSET:
        message_id = _made_id()
        front += b'"messageId":"%b",' % message_id.encode()
    elif not message_id:
        return None
    if sent is not None:
        if item.sentAt is msgspec.UNSET:
            front += b'"sentAt":%b,' % sent
        elif item.sentAt is None:
            return None
    if context is not None:
        if item.context is not msgspec.UNSET:
            return None
        front += b'"context":%b,' % context
    who = item.userId
    if who is not None and (text := str(who).strip()):
        key = f"{source.partner}|u|{text}"
    elif item.anonymousId is not None and (text := str(item.anonymousId).strip()):
        key = f"{source.partner}|a|{text}"
    else:
        return None
    return RawOut(key.encode(), b"{%b%b" % (front, content[1:]) if front else content, message_id)


def _made_id() -> str:
    """A random UUID (version 4), without making a `uuid.UUID` of it."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


@overload
def first_part(key: str) -> str: ...
@overload
def first_part(key: None) -> None: ...
def first_part(key: str | None) -> str | None:
    """The key before a colon. Jitsu's client takes none without, and masks what follows it: ``acme.shop:***``."""
    return None if key is None else key.partition(":")[0]


def _shared(document: dict[str, Any]) -> tuple[str | int | float | None, dict[str, Any]]:
    """``sentAt`` and ``context`` of a batch: every event has them unless it brings its own."""
    sent, context = document.get("sentAt"), document.get("context")
    if isinstance(sent, bool) or not isinstance(sent, str | int | float | None):
        raise Refused(400, "shape", "`sentAt` must be RFC 3339 text or milliseconds since 1970", "$.sentAt")
    if not isinstance(context, dict | None):
        raise Refused(400, "shape", "`context` must be an object", "$.context")
    return sent, context or {}


def _event(
    item: Any,
    source: Source,
    sent: str | int | float | None = None,
    context: Mapping[str, Any] | None = None,
    given: str | None = None,
) -> RawOut:
    """One event with what it lacks filled in: type, messageId, and the batch's sentAt and context.

    Raises `Refused` with a path into the event.
    """
    if not isinstance(item, dict):
        raise Refused(400, "not_an_object", "an event must be a JSON object", "$")
    event = shaped(item)
    spelt = event.writeKey is not None and event.writeKey != source.key
    if spelt and first_part(event.writeKey) not in (source.key, given):
        raise Refused(400, "wrong_code", "the event's own writeKey names another source", "$.writeKey")
    if event.type == "track" and not event.event:
        raise Refused(400, "no_event_name", REASONS["no_event_name"], "$.event")
    message_id = event.messageId or _made_id()
    filled = {**item, "type": event.type, "messageId": message_id}
    if spelt:
        filled["writeKey"] = source.key
    if sent is not None and event.sentAt is None:
        filled["sentAt"] = sent
    if context:
        filled["context"] = {**context, **(event.context or {})}
    key = strongest(source.partner, identity(event.userId), identity(event.anonymousId), *contacts(filled))
    if key is None:
        raise Refused(400, "no_identity", REASONS["no_identity"], "$.userId")
    return RawOut(key.encode(), _encoded(filled, item), message_id)


def _encoded(filled: dict[str, Any], item: dict[str, Any]) -> bytes:
    try:
        value = orjson.dumps(filled)
        # The limit is on what the client sent, not on what we have added to it.
        size = len(orjson.dumps(item)) if len(value) > MAX_EVENT_BYTES else 0
    except TypeError:
        raise Refused(400, "not_json", "nested too deeply", "$") from None
    if size > MAX_EVENT_BYTES:
        raise Refused(413, "too_large", f"an event of {size} bytes; at most {MAX_EVENT_BYTES}", "$")
    return value
