"""From an event as a mapping or a bridge makes it, a JSON object, to the record for the source's raw topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from pipeline.bridges.base import RawOut, Refused
from pipeline.models.control import Source
from pipeline.models.event import strongest
from pipeline.models.failures import REASONS
from pipeline.models.fast import struct_for
from pipeline.models.raw import MAX_EVENT_BYTES, RawEvent

__all__ = ["contacts", "identity", "raw_out", "shaped"]

#: The shape rules of `RawEvent`, in the form that intake uses.
_Event: Any = struct_for(RawEvent)
#: An e-mail or phone longer than this is none, as intake has it.
_MAX_CONTACT = 320


def raw_out(event: Mapping[str, Any], source: Source, message_id: str) -> RawOut:
    """The record of ``event``, whose id is ``message_id`` unless it brings one.

    Raises `Refused` with a path into the event for what intake would reject: a wrong shape, no name, nobody's.
    Times are judged by intake alone, as for all other doors.
    """
    checked = shaped(event)
    if checked.type == "track" and not checked.event:
        raise Refused(400, "no_event_name", REASONS["no_event_name"], "$.event")
    key = strongest(source.partner, identity(checked.userId), identity(checked.anonymousId), *contacts(event))
    if key is None:
        raise Refused(400, "no_identity", REASONS["no_identity"], "$.userId")
    name = checked.messageId or message_id
    try:
        value = orjson.dumps({**event, "messageId": name})
    except TypeError:
        raise Refused(400, "not_json", "nested too deeply", "$") from None
    if len(value) > MAX_EVENT_BYTES:
        raise Refused(413, "too_large", f"an event of {len(value)} bytes; at most {MAX_EVENT_BYTES}", "$")
    return RawOut(key.encode(), value, name)


def shaped(event: Mapping[str, Any]) -> Any:
    """``event`` by the shape rules of the raw contract. Raises `Refused` with a path into it."""
    try:
        return msgspec.convert(event, _Event)
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `")
        raise Refused(400, "shape", detail, path.rstrip("`") or "$") from None
    except RecursionError:
        raise Refused(400, "not_json", "nested too deeply", "$") from None


def identity(value: str | int | None) -> str | None:
    """A user's or an anonymous id as intake has it; None for an empty one."""
    return None if value is None else str(value).strip() or None


def contacts(event: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """E-mail and phone from the traits, else from the context's traits."""
    traits = event.get("traits")
    if traits is None:
        traits = (event.get("context") or {}).get("traits")
    if not isinstance(traits, dict):
        return None, None
    return _contact(traits.get("email")), _contact(traits.get("phone"))


def _contact(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) and len(value) <= _MAX_CONTACT else None
