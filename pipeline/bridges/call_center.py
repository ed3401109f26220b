"""Calls of a call centre: started, answered, ended, recorded, disposed, by REST and by Twilio's signed callbacks.

They belong to the customer's phone number: the caller's of an inbound call, the called one's of an outbound call.
Sources: Twilio's documentation of StatusCallback and RecordingStatusCallback of a call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.bridges.base import Answer, BridgeRequest, Door, Fault, NoSettings, Parsed, RawOut, Refused
from pipeline.bridges.outgoing import raw_out
from pipeline.bridges.twilio_signature import check_twilio
from pipeline.models.base import Millis
from pipeline.models.control import Source
from pipeline.models.phone import e164

__all__ = ["MAX_CALLS", "CallCenterBridge"]

MAX_CALLS = 500

_NAMES = {
    "started": "Call Started",
    "answered": "Call Answered",
    "ended": "Call Ended",
    "recorded": "Call Recorded",
    "disposed": "Call Disposed",
}
#: Twilio's CallStatus -> ours, and the outcome of a call that has ended.
_TWILIO: dict[str, tuple[str, str | None]] = {
    "queued": ("started", None),
    "initiated": ("started", None),
    "ringing": ("started", None),
    "in-progress": ("answered", None),
    "answered": ("answered", None),
    "completed": ("ended", "completed"),
    "busy": ("ended", "busy"),
    "no-answer": ("ended", "no-answer"),
    "failed": ("ended", "failed"),
    "canceled": ("ended", "canceled"),
}
#: A phone that is one; ``client:ann`` and ``sip:…`` are none.
_NUMBER = re.compile(r"\+[0-9]{5,15}")

Text = Annotated[str, Field(min_length=1, max_length=512)]


class _Call(BaseModel):
    """One moment of a call, as REST takes it."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    call_id: Annotated[str, Field(min_length=1, max_length=200)]
    status: Literal["started", "answered", "ended", "recorded", "disposed"]
    direction: Literal["inbound", "outbound"]
    from_: Text | None = Field(None, alias="from")
    to: Text | None = None
    timestamp: Text | int | float | None = None
    duration: Annotated[float, Field(ge=0, le=10_000_000)] | None = None
    agent: Text | None = None
    queue: Text | None = None
    outcome: Text | None = None
    recording_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    recording_url: Annotated[str, Field(max_length=2000)] | None = None
    disposition: Text | None = None
    note: Annotated[str, Field(max_length=10_000)] | None = None
    user_id: Text | None = None


class CallCenterBridge:
    """Each status of a call counts once, however often it is told; of recordings, each one."""

    name = "call-center"
    title = "Call centre: calls by REST, and Twilio's status callbacks"
    door: Door = "server"
    channel = "Call Center"
    Settings = NoSettings

    def parse(self, request: BridgeRequest, source: Source, secrets: Sequence[bytes], now_ms: Millis) -> Parsed:
        """Kind ``calls``: a call or an array of them, JSON; ``twilio``: a signed callback. Raises `Refused`."""
        if request.kind == "twilio":
            return _twilio(request, source, secrets)
        events: list[RawOut] = []
        faults: list[Fault] = []
        for index, given in enumerate(_calls(request.body)):
            try:
                events.append(_event(_checked(given), source))
            except Refused as no:
                faults.append(Fault(index, no.code, no.message, no.path))
        return Parsed(events, faults)


def _calls(body: bytes) -> list[Any]:
    try:
        document = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise Refused(400, "not_json", f"the body is not UTF-8 JSON: {error}") from None
    calls = document if isinstance(document, list) else [document]
    if len(calls) > MAX_CALLS:
        raise Refused(413, "too_large", f"{len(calls)} calls; at most {MAX_CALLS} a request", "$")
    return calls


def _checked(given: Any) -> _Call:
    try:
        return _Call.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(["$", *map(str, first["loc"])])
        raise Refused(400, "shape", first["msg"], path) from None


def _event(call: _Call, source: Source) -> RawOut:
    """The event of one moment of a call. Where no number says whose call it is, it is a caller's of its own."""
    region = source.policy.region
    ours, theirs = (call.to, call.from_) if call.direction == "inbound" else (call.from_, call.to)
    phone = e164(theirs, region) if theirs else None
    properties = {
        "call_id": call.call_id,
        "direction": call.direction,
        "from": _spelled(call.from_, region),
        "to": _spelled(call.to, region),
        "line": _spelled(ours, region),
        "duration": call.duration,
        "agent": call.agent,
        "queue": call.queue,
        "outcome": call.outcome,
        "recording_id": call.recording_id,
        "recording_url": call.recording_url,
        "disposition": call.disposition,
        "note": call.note,
    }
    event: dict[str, Any] = {
        "type": "track",
        "event": _NAMES[call.status],
        "properties": {key: value for key, value in properties.items() if value is not None},
    }
    if call.timestamp is not None:
        event["timestamp"] = call.timestamp
    if call.user_id:
        event["userId"] = call.user_id
    if phone:
        event["context"] = {"traits": {"phone": phone}}
    elif not call.user_id:
        event["anonymousId"] = f"call:{call.call_id}"
    parts = [call.call_id, call.status, *([call.recording_id] if call.recording_id else [])]
    return raw_out(event, source, ":".join(parts))


def _spelled(number: str | None, region: str | None) -> str | None:
    return number and (e164(number, region) or number)


def _twilio(request: BridgeRequest, source: Source, secrets: Sequence[bytes]) -> Parsed:
    """A callback of a call's status, or of a recording's.

    A recording's names no numbers: they may stand in the query of the address that Twilio was given, which it signs.
    """
    signed = check_twilio(request, secrets)
    try:
        query = parse_qs(urlsplit(request.url).query, max_num_fields=50)
    except ValueError:
        query = {}
    fields = {name: values[0] for name, values in (query | signed).items() if values and values[0]}
    call: dict[str, Any] = {"call_id": fields.get("CallSid", "")}
    if "RecordingSid" in fields and "CallStatus" not in fields:
        if fields.get("RecordingStatus", "completed") != "completed":
            return Parsed([], answer=_TWIML)
        call |= {"status": "recorded", "recording_id": fields["RecordingSid"]}
        call |= _given(fields, recording_url="RecordingUrl")
        moment, length = fields.get("RecordingStartTime"), fields.get("RecordingDuration")
    else:
        known = _TWILIO.get(fields.get("CallStatus", ""))
        if known is None:
            raise Refused(400, "shape", f"CallStatus must be one of {', '.join(_TWILIO)}", "CallStatus")
        call |= {"status": known[0]} | ({"outcome": known[1]} if known[1] else {})
        call |= _given(fields, recording_id="RecordingSid", recording_url="RecordingUrl")
        moment, length = fields.get("Timestamp"), fields.get("CallDuration")
        if known[0] != "recorded":
            call.pop("recording_id", None)  # it would make another event of the same status
    call["direction"] = "inbound" if fields.get("Direction", "inbound") == "inbound" else "outbound"
    call |= {"from": _number(fields, "From"), "to": _number(fields, "To")}
    call |= _given(fields, agent="Agent", queue="Queue", user_id="UserId")
    if length is not None and length.isdecimal() and len(length) < 8:
        call["duration"] = float(length)
    call["timestamp"] = _moment(moment)
    return Parsed([_event(_checked(call), source)], answer=_TWIML)


#: What Twilio expects of any webhook; with nothing in it, nothing happens to the call.
_TWIML = Answer(b'<?xml version="1.0" encoding="UTF-8"?><Response/>', "text/xml")


def _given(fields: Mapping[str, str], **names: str) -> dict[str, str]:
    return {ours: fields[theirs] for ours, theirs in names.items() if theirs in fields}


def _number(fields: Mapping[str, str], name: str) -> str | None:
    """A number; ``client:ann``, ``sip:…`` and the ``+266696687`` of a caller who is not known stay as they are."""
    value = fields.get(name)
    # In a query that nobody encoded, the plus of a number is read as a space.
    return f"+{value.strip()}" if value and _NUMBER.fullmatch(f"+{value.strip()}") else value


def _moment(text: str | None) -> str | None:
    """Twilio writes times as e-mails do (RFC 2822)."""
    if text is None:
        return None
    try:
        return parsedate_to_datetime(text).isoformat()
    except ValueError:
        return None
