"""Segment-compatible tracking over HTTP: track, page, screen, identify, group, alias, and batches of them.

Source: Segment's HTTP tracking API. Limits are theirs: 32 KB an event, 2,500 events a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload
from uuid import uuid4

import msgspec
import orjson

from pipeline.bridges.base import BridgeRequest, Door, Fault, NoSettings, Parsed, RawOut, Refused, decode_object
from pipeline.models.base import Millis
from pipeline.models.control import Source
from pipeline.models.event import strongest
from pipeline.models.failures import REASONS
from pipeline.models.fast import struct_for
from pipeline.models.raw import RawEvent

__all__ = ["KINDS", "MAX_BATCH_EVENTS", "MAX_EVENT_BYTES", "SegmentBridge", "first_part"]

MAX_EVENT_BYTES = 32 * 1024
MAX_BATCH_EVENTS = 2500

#: Last part of the path -> type of the event. The short ones are the browser library's.
KINDS: dict[str, str] = {kind: kind for kind in ("track", "page", "screen", "identify", "group", "alias", "batch")}
KINDS |= {kind[0]: kind for kind in KINDS} | {"import": "batch"}

#: The shape rules of `RawEvent`, in the form that intake uses.
_Event: Any = struct_for(RawEvent)
#: An e-mail or phone longer than this is none, as intake has it.
_MAX_CONTACT = 320


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
        document = request.document if request.document is not None else decode_object(request.body)
        kind = KINDS[request.kind]
        if kind != "batch":
            return Parsed([_event({**document, "type": kind}, source)])
        items = document.get("batch")
        if not isinstance(items, list):
            raise Refused(400, "shape", "a batch has its events in the list `batch`", "$.batch")
        if len(items) > MAX_BATCH_EVENTS:
            raise Refused(413, "too_large", f"{len(items)} events in a batch; at most {MAX_BATCH_EVENTS}", "$.batch")
        sent, context = _shared(document)
        events: list[RawOut] = []
        faults: list[Fault] = []
        for index, item in enumerate(items):
            try:
                events.append(_event(item, source, sent, context))
            except Refused as fault:
                path = f"$.batch[{index}]{(fault.path or '$')[1:]}"
                faults.append(Fault(index, fault.code, fault.message, path))
        return Parsed(events, faults)


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
    item: Any, source: Source, sent: str | int | float | None = None, context: Mapping[str, Any] | None = None
) -> RawOut:
    """One event with what it lacks filled in: type, messageId, and the batch's sentAt and context.

    Raises `Refused` with a path into the event.
    """
    if not isinstance(item, dict):
        raise Refused(400, "not_an_object", "an event must be a JSON object", "$")
    event = _checked(item)
    if event.writeKey is not None and first_part(event.writeKey) != source.key:
        raise Refused(400, "wrong_code", "the event's own writeKey names another source", "$.writeKey")
    if event.type == "track" and not event.event:
        raise Refused(400, "no_event_name", REASONS["no_event_name"], "$.event")
    message_id = event.messageId or str(uuid4())
    filled = {**item, "type": event.type, "messageId": message_id}
    if event.writeKey is not None and event.writeKey != source.key:
        filled["writeKey"] = source.key
    if sent is not None and event.sentAt is None:
        filled["sentAt"] = sent
    if context:
        filled["context"] = {**context, **(event.context or {})}
    key = strongest(source.partner, _id(event.userId), _id(event.anonymousId), *_contacts(filled))
    if key is None:
        raise Refused(400, "no_identity", REASONS["no_identity"], "$.userId")
    return RawOut(key.encode(), _encoded(filled, item), message_id)


def _checked(item: dict[str, Any]) -> Any:
    try:
        return msgspec.convert(item, _Event)
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `")
        raise Refused(400, "shape", detail, path.rstrip("`") or "$") from None
    except RecursionError:
        raise Refused(400, "not_json", "nested too deeply", "$") from None


def _id(value: str | int | None) -> str | None:
    return None if value is None else str(value).strip() or None


def _contacts(event: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """E-mail and phone from the traits, else from the context's traits."""
    traits = event.get("traits")
    if traits is None:
        traits = (event.get("context") or {}).get("traits")
    if not isinstance(traits, dict):
        return None, None
    return _contact(traits.get("email")), _contact(traits.get("phone"))


def _contact(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) and len(value) <= _MAX_CONTACT else None


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
