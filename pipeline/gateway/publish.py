"""Events onto a source's raw topic, with what the edge knows in CloudEvents headers; done when acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.requests import Request

from pipeline.bridges.base import RawOut, Refused
from pipeline.gateway.admission import origin_of
from pipeline.models.base import Millis
from pipeline.models.control import Source
from pipeline.stream.batch import BatchProducer, Record, RecordRefused

__all__ = ["Client", "publish"]

#: Of a user agent; longer ones are cut.
_UA = 512


@dataclass(frozen=True, slots=True)
class Client:
    """Who is at the other end: address, user agent, and the origin of the page, each if known."""

    ip: str | None
    ua: str | None
    origin: str | None

    @classmethod
    def of(cls, request: Request) -> Client:
        """As the request says it; behind a trusted proxy the server has put the client's address in already."""
        ua = request.headers.get("user-agent")
        return cls(
            ip=request.client.host if request.client else None,
            ua=ua[:_UA] if ua else None,
            origin=origin_of(request.headers),
        )


async def publish(
    producer: BatchProducer, source: Source, events: Sequence[RawOut], client: Client, received: Millis
) -> None:
    """Write ``events`` to the source's topic and wait until the broker has acknowledged every one.

    ``received``: milliseconds since 1970. Raises `BufferFull` (none was written), `Unavailable` (some may have
    been; the same ids make a repeat harmless) and `Refused` 413 for what the topic will never take.
    """
    shared = _headers(source, client, received)
    records = [Record(event.key, event.value, [("ce_id", event.message_id.encode()), *shared]) for event in events]
    try:
        for delivery in await producer.send_many(source.topic, records):
            await delivery
    except RecordRefused as error:
        raise Refused(413, "too_large", f"Kafka refused the event: {error}") from error


def _headers(source: Source, client: Client, received: Millis) -> list[tuple[str, bytes]]:
    moment = datetime.fromtimestamp(received / 1000, UTC).isoformat(timespec="milliseconds")
    known = {
        "ce_specversion": "1.0",
        "ce_source": source.key,
        "ce_type": "headrace.raw.v1",
        "ce_time": moment.replace("+00:00", "Z"),
        "headrace_bridge": source.bridge,
        "headrace_ip": client.ip,
        "headrace_ua": client.ua,
        "headrace_origin": client.origin,
    }
    return [(name, text.encode()) for name, text in known.items() if text is not None]
