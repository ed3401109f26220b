"""What came of a client's calls: the records on a source's raw topic, and the events that intake makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from records import read_all

from pipeline.agents.judge import judge
from pipeline.models.control import Source
from pipeline.stream.kafka import Kafka

__all__ = ["Landed", "differences", "landed", "name_of"]


@dataclass(frozen=True)
class Landed:
    """One record: the raw event, the edge's headers, the key, and the event that intake would publish."""

    raw: dict[str, Any]
    headers: dict[str, str]
    key: str
    event: dict[str, Any]


async def landed(kafka: Kafka, source: Source) -> list[Landed]:
    """All records of the source's raw topic, as of now. Raises RejectError if intake would refuse one."""
    found = []
    for record in await read_all(kafka, source.topic):
        key, event = judge(
            source, record.value, record.headers, appended=record.timestamp, control=1, fallback_id="none"
        )
        assert key == record.key, "the edge and intake must agree on whose event it is"
        headers = {name: value.decode() for name, value in record.headers}
        found.append(Landed(orjson.loads(record.value), headers, key.decode(), orjson.loads(event)))
    return found


def name_of(event: Mapping[str, Any]) -> str:
    """A track by its event's name, any other by its type."""
    return str(event["event"]) if event["type"] == "track" else str(event["type"])


def differences(expected: Any, found: Any, path: str = "$") -> list[str]:
    """Where ``found`` is not as ``expected``: objects may have more fields, datetimes are compared as moments."""
    if isinstance(expected, datetime):
        same = isinstance(found, str) and datetime.fromisoformat(found) == expected
    elif isinstance(expected, Mapping):
        if not isinstance(found, Mapping):
            return [f"{path}: {found!r} is no object"]
        return [
            line
            for name, value in expected.items()
            for line in (
                differences(value, found[name], f"{path}.{name}") if name in found else [f"{path}.{name}: missing"]
            )
        ]
    elif isinstance(expected, Sequence) and not isinstance(expected, str):
        if not isinstance(found, list) or len(found) != len(expected):
            return [f"{path}: {found!r}, not {expected!r}"]
        return [
            line
            for n, (e, f) in enumerate(zip(expected, found, strict=True))
            for line in differences(e, f, f"{path}[{n}]")
        ]
    else:
        same = type(expected) is type(found) and expected == found
    return [] if same else [f"{path}: {found!r}, not {expected!r}"]
