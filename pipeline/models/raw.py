"""The raw event: what a producer, a bridge or a client hands over; a public contract (decision 9).

Value: JSON in the shape of Segment's tracking specification. Headers: what the edge knows, CloudEvents
1.0 binary mode (``ce_*``) plus Headrace's own (``headrace_*``); all of them optional.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import MaxLen
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["HEADERS", "KIND_NAMES", "MAX_EVENT_BYTES", "MAX_ID", "Kind", "RawEvent"]

Kind = Literal["track", "page", "screen", "identify", "group", "alias"]

#: A message id is shorter than this (Segment: < 100 characters); other identifiers up to 512.
MAX_ID = 512
Id = Annotated[str, MaxLen(MAX_ID)] | int
#: The largest value that intake takes; larger ones are rejected. The gateway's own limit is 32 KB.
MAX_EVENT_BYTES = 1_000_000

#: Events that are no ``track`` have these names (a track brings its own).
KIND_NAMES: dict[str, str] = {
    "page": "Page Viewed",
    "screen": "Screen Viewed",
    "identify": "Identified",
    "group": "Grouped",
    "alias": "Aliased",
}

#: Header -> meaning. Values are UTF-8 text.
HEADERS: dict[str, str] = {
    "ce_specversion": "always 1.0",
    "ce_id": "message id; used when the value has no messageId",
    "ce_source": "`<partner-id>.<code>` as the client passed it; checked against the source's code today",
    "ce_type": "`headrace.raw.v1`",
    "ce_time": "RFC 3339 time at which the edge received it; the record's append time when missing",
    "headrace_bridge": "the bridge that took it in",
    "headrace_ip": "client address",
    "headrace_ua": "client user agent",
    "headrace_origin": "the page's origin; checked against the source's domain",
    "headrace_key": "id of the secret key that it came with; set by the gateway",
    "headrace_gpc": "`1`: the client sent Sec-GPC, or its consent says no; the source's policy says what follows",
    "headrace_flags": "what the bridge found, `flag,flag:rule`, lower case; at most 10; shown as flags of the event",
    "headrace_redriven": "the dead letter that the record was, `dead.<role>[partition]@offset`; set by a redrive",
    "headrace_replayed": "the rejection that the record was, `partition@offset`; set by a replay",
    "headrace_original": "where the record lay at first, `topic[partition]@offset`; set by a redrive or a replay",
    "headrace_appended": "RFC 3339 time at which it was appended there; set by a redrive or a replay",
}


class RawEvent(BaseModel):
    """One event as a client sends it (Segment's tracking specification; unknown fields are let through).

    ``timestamp`` and friends: RFC 3339 text, or milliseconds since 1970. Either ``userId`` or
    ``anonymousId``, or an ``email`` or ``phone`` in ``traits`` or ``context.traits``, says whose it is.
    """

    model_config = ConfigDict(extra="allow", strict=True, title="RawEvent")

    type: Kind = "track"
    event: str | None = Field(None, max_length=200, description="name of a tracked event; required for track")
    name: str | None = Field(None, max_length=1000, description="name of a page or screen")
    userId: Id | None = Field(None, description="the customer's id in the partner's own system")
    anonymousId: Id | None = Field(None, description="an id of a browser or device")
    messageId: str | None = Field(None, max_length=MAX_ID, description="unique per source; made when missing")
    timestamp: str | int | float | None = None
    originalTimestamp: str | int | float | None = None
    sentAt: str | int | float | None = None
    properties: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None
    context: dict[str, Any] | None = None
    groupId: Id | None = None
    previousId: Id | None = None
    writeKey: str | None = Field(None, max_length=200, description="`<partner-id>.<code>`")
