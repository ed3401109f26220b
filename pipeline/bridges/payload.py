"""The payload of a queue's message: a raw event in JSON, or a foreign document that a declared mapping makes events of.

A raw event is passed on byte by byte, with the parcel's id beside it; a mapped one is made here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import msgspec
import orjson
from pydantic import Field, model_validator

from pipeline.bridges.base import BridgeRequest, Door, Parsed, RawOut, Refused
from pipeline.bridges.origin import Settings
from pipeline.events.mapping import MappingError, Program, compile_mapping
from pipeline.models.base import Millis
from pipeline.models.control import Source
from pipeline.models.event import strongest
from pipeline.models.failures import REASONS
from pipeline.models.fast import struct_for
from pipeline.models.mapping import Mapping as Declared
from pipeline.models.raw import MAX_EVENT_BYTES, MAX_ID, RawEvent

__all__ = ["PayloadBridge", "PayloadSettings", "event_out", "mapped", "program_of"]

_decode = msgspec.json.Decoder(struct_for(RawEvent, raw=frozenset({"properties", "context"}))).decode
#: Source -> the program of its mapping, while it is the same source.
_programs: dict[tuple[str, str], tuple[Source, Program | None]] = {}


class PayloadSettings(Settings):
    """What a message is, and what becomes of it."""

    format: Literal["json", "text"] = Field(
        "json", description="text: a message that is no JSON; a mapping finds it as `$.text`"
    )
    mapping: Declared | None = Field(
        None, description="what a message becomes; left out: it is a raw event, as docs/producers.md has it"
    )

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        if self.mapping is not None:
            try:
                compile_mapping(self.mapping)
            except MappingError as error:
                raise ValueError(f"mapping: {error} (at {error.path})") from None
        if self.format == "text" and self.mapping is None:
            raise ValueError("`format: text` wants a `mapping`: a text is no event")
        return self


class PayloadBridge:
    """The pure half of a queue's bridge."""

    door: Door = "feed"
    Settings: type[PayloadSettings] = PayloadSettings

    def parse(self, request: BridgeRequest, source: Source, secrets: Sequence[bytes], now_ms: Millis) -> Parsed:
        """The events of one message. Raises `Refused`."""
        program = program_of(source, self.Settings)
        if program is None:
            return Parsed([_plain(request, source)])
        text = source.settings.get("format") == "text"
        document = _text(request.body) if text else _json(request.body)
        return Parsed(mapped(document, request, source, program))


def mapped(document: Any, request: BridgeRequest, source: Source, program: Program) -> list[RawOut]:
    """What the mapping makes of a document. Raises `Refused`."""
    try:
        events = program(document, request.headers)
    except MappingError as error:
        raise Refused(400, "shape", str(error), error.path) from None
    several = len(events) > 1
    return [
        event_out(event, f"{request.id}.{number}" if several else request.id, source)
        for number, event in enumerate(events)
    ]


def event_out(event: Mapping[str, Any], fallback_id: str, source: Source) -> RawOut:
    """The record of an event made here, with ``fallback_id`` for its message id where it has none. Raises `Refused`."""
    traits = event.get("traits") or {}
    value = orjson.dumps(event)
    _bound(value)
    key = strongest(
        source.partner,
        _id(event.get("userId")),
        _id(event.get("anonymousId")),
        _contact(traits.get("email")),
        _contact(traits.get("phone")),
    )
    return RawOut((key or fallback_id).encode(), value, str(event.get("messageId") or fallback_id))


def program_of(source: Source, model: type[PayloadSettings]) -> Program | None:
    """The source's mapping, compiled; None where it has none."""
    place = (source.partner, source.id)
    known = _programs.get(place)
    if known is None or known[0] is not source:
        declared = model.model_validate(source.settings).mapping
        known = _programs[place] = (source, compile_mapping(declared) if declared is not None else None)
    return known[1]


def _plain(request: BridgeRequest, source: Source) -> RawOut:
    _bound(request.body)
    if source.policy.mapping is not None:
        # Whatever it is, the source's policy makes an event of it.
        return RawOut(request.id.encode(), request.body, request.id)
    if not request.body.strip():
        raise Refused(400, "empty", REASONS["empty"])
    try:
        event = _decode(request.body)
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `")
        code = "shape" if path else "not_an_object"
        raise Refused(400, code, detail, path.rstrip("`") or "$") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "not_json", str(error)[:300]) from None
    traits = event.traits or {}
    key = strongest(
        source.partner,
        _id(event.userId),
        _id(event.anonymousId),
        _contact(traits.get("email")),
        _contact(traits.get("phone")),
    )
    return RawOut((key or request.id).encode(), request.body, event.messageId or request.id)


def _bound(value: bytes) -> None:
    if len(value) > MAX_EVENT_BYTES:
        raise Refused(413, "too_large", f"{len(value)} bytes; at most {MAX_EVENT_BYTES}")


def _json(body: bytes) -> Any:
    if not body.strip():
        raise Refused(400, "empty", REASONS["empty"])
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, "not_json", f"{error}"[:300]) from None


def _text(body: bytes) -> dict[str, str]:
    try:
        return {"text": body.decode()}
    except UnicodeDecodeError as error:
        raise Refused(400, "not_json", f"the message is no UTF-8 text: {error}"[:300]) from None


def _id(value: Any) -> str | None:
    return str(value).strip()[:MAX_ID] or None if isinstance(value, str | int | float) else None


def _contact(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) and len(value) <= 320 else None
