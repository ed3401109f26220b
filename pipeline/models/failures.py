"""Three ways to fail: rejected input, dead letter, undeliverable (the last is in `delivery`)."""

from __future__ import annotations

from pydantic import Field

from pipeline.models.base import Millis, Model

__all__ = ["DeadLetter", "Redriven", "RejectReason", "Rejected", "Replayed"]

#: Reason codes of intake, and what to do about each.
REASONS: dict[str, str] = {
    "empty": "the record has no value; send the event as JSON",
    "too_large": "larger than 1,000,000 bytes; split it or leave out what is not needed",
    "not_json": "the value is not UTF-8 JSON",
    "not_an_object": "the value must be one JSON object",
    "shape": "a field is missing or has the wrong type; `path` says which",
    "unknown_source": "no such source; check the topic name `raw.<partner-id>.<source-id>`",
    "inactive_source": "the source is switched off or removed",
    "wrong_code": "the key names another or an old source code; use the code that the source has now",
    "wrong_domain": "the page's domain is not the source's",
    "no_identity": "userId, anonymousId, or an e-mail or phone in traits must say whose event it is",
    "no_event_name": "a track needs `event`",
    "bad_time": "a timestamp is neither RFC 3339 text nor milliseconds since 1970",
    "mapping": "no event of the source's mapping fits the record, or a value in it can't be read as the mapping says",
    "event_not_allowed": "the source takes other events only; `policy.events` names them",
    "unknown_event": "the source takes events of the catalogue only; add the event's type, or let it accept any",
    "bad_property": "a property is missing, of another type than the catalogue says, or none of its allowed values",
    "payload": "the event does not validate against the source's payload schema",
    "policy": "the source's policy can't be read; save it again",
}
RejectReason = str


class Rejected(Model):
    """Input that breaks its contract: why, where, and the bytes as they came. Key: ``<partner>.<source>``."""

    reason: RejectReason = Field(description="a code of REASONS")
    detail: str = Field(description="what is wrong and what to do, for people")
    path: str | None = Field(None, description="path into the payload, e.g. `$.userId`")
    partner: str
    source: str
    topic: str
    partition: int
    offset: int
    received: Millis
    key: str | None = Field(None, description="the record's key, base64")
    value: str | None = Field(
        None, description="the original bytes, base64; null where there were none, and where `withheld`"
    )
    headers: list[tuple[str, str]] = Field(default_factory=list, description="names, values base64")
    withheld: bool = Field(
        False, description="key, value and headers are not kept: the client refused, and the source's policy honours it"
    )


class Replayed(Model):
    """A rejected record was written to its raw topic again, mended or not: on `rejected.replayed`, in the partition
    that the rejection lies in, in the transaction that wrote the record. Key: ``<partner>.<source>``.
    """

    replayed: int = Field(description="the rejection's offset")
    at: Millis
    topic: str = Field(description="where the record is now")
    partition: int
    offset: int
    by: str = Field("", description="who asked for it")


class DeadLetter(Model):
    """A record on which our own code failed: parked with the traceback on `dead.<role>`. Key: the record's own.

    ``topic``, ``partition``, ``offset`` and ``timestamp`` are the record's; a large one's value is left out, and its
    key and headers where that is not enough.
    """

    role: str
    lane: int
    topic: str
    partition: int
    offset: int
    timestamp: Millis
    error: str
    traceback: str
    parked: Millis
    key: str | None = Field(None, description="base64")
    value: str | None = Field(None, description="base64; null also where it is too large for a letter")
    headers: list[tuple[str, str]] = Field(default_factory=list, description="names, values base64")


class Redriven(Model):
    """A marker on `dead.<role>`, in the partition of the letter that it speaks of: the letter's record was written
    again. No key; the header `headrace_marker` names the letter's place, and no letter has that header.
    """

    redriven: int = Field(description="the letter's offset")
    at: Millis
    topic: str = Field(description="where the record is now")
    partition: int
    offset: int
