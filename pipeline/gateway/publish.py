"""Events onto a source's raw topic, with what the edge knows in CloudEvents headers; done when acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from pipeline.bridges.base import RawOut, Refused
from pipeline.gateway.client import Client
from pipeline.models.base import Millis
from pipeline.models.control import Source
from pipeline.stream.producer import Record, RecordRefused

__all__ = ["Client", "Producing", "publish", "records_of", "write"]


class Producing(Protocol):
    """What the gateway needs of a producer, `stream.producer.Producer`."""

    def write(self, topic: str, records: Sequence[Record]) -> asyncio.Future[None]: ...

    async def answers(self, timeout_s: float = 2.0) -> bool: ...


async def publish(
    producer: Producing, source: Source, events: Sequence[RawOut], client: Client, received: Millis
) -> None:
    """Write ``events`` to the source's topic and wait until the broker has acknowledged every one.

    ``received``: milliseconds since 1970. Raises `BufferFull` (none was written), `Unavailable` (some may have
    been; the same ids make a repeat harmless) and `Refused` 413 for what the topic will never take.
    """
    try:
        await producer.write(source.topic, records_of(source, events, client, received))
    except RecordRefused as error:
        raise Refused(413, "too_large", f"Kafka refused the event: {error}") from error


def write(
    producer: Producing, source: Source, events: Sequence[RawOut], client: Client, received: Millis
) -> asyncio.Future[None]:
    """As `publish`, for who can't wait here: the future tells of the acknowledgement, or raises as `publish` does."""
    return producer.write(source.topic, records_of(source, events, client, received))


def records_of(
    source: Source, events: Sequence[RawOut], client: Client, received: Millis, flags: Sequence[str] = ()
) -> list[Record]:
    """The records of ``events``, for the source's topic. ``flags``: verdicts on the request."""
    shared = (("ce_time", _moment(received)), *_headers(source.key, source.bridge, client))
    if flags:
        shared += (("headrace_flags", ",".join(flags).encode()),)
    return [Record(key, value, [("ce_id", name.encode()), *shared]) for key, value, name in events]


@lru_cache(maxsize=1024)
def _headers(source: str, bridge: str, client: Client) -> tuple[tuple[str, bytes], ...]:
    """What all events of a client's requests share."""
    found = [
        ("ce_specversion", b"1.0"),
        ("ce_source", source.encode()),
        ("ce_type", b"headrace.raw.v1"),
        ("headrace_bridge", bridge.encode()),
    ]
    if client.ip is not None:
        found.append(("headrace_ip", client.ip.encode()))
    if client.ua is not None:
        found.append(("headrace_ua", client.ua.encode()))
    if client.origin is not None:
        found.append(("headrace_origin", client.origin.encode()))
    if client.gpc:
        found.append(("headrace_gpc", b"1"))
    if client.key is not None:
        found.append(("headrace_key", client.key.encode()))
    return tuple(found)


@lru_cache(maxsize=64)
def _moment(received: Millis) -> bytes:
    """RFC 3339. Requests of one millisecond share it."""
    moment = datetime.fromtimestamp(received / 1000, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z").encode()
