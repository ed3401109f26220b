"""Dead letters as a table: each partner's own, those that were redriven told apart."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pipeline.query.dead import DEAD_LETTERS, DeadTable
from pipeline.stream.dead_letters import DeadLetter, Place, letter, marker
from pipeline.stream.kafka import Kafka


def parked(offset: int, topic: str, key: bytes | None, value: bytes = b"{}") -> Any:
    """A record of `dead.fanout`."""
    record: Any = SimpleNamespace(offset=offset, timestamp=5, key=key, value=value, headers=())
    body = letter("fanout", 1, topic, 1, record, ValueError("no such colour"))
    return SimpleNamespace(topic="dead.fanout", partition=1, offset=offset, key=key, value=body, headers=())


async def test_each_partner_sees_its_own_letters_and_which_were_redriven() -> None:
    table = DeadTable(Kafka("nowhere:9"))
    records = [
        parked(0, "events", b"acme|u|ann"),
        parked(1, "raw.acme.web", None),
        parked(2, "raw.other.web", b"acme|u|ann"),
        parked(3, "events", None),
        SimpleNamespace(topic="dead.fanout", partition=1, offset=4, key=None, value=b"no letter", headers=()),
    ]
    value, headers = marker(DeadLetter.read(records[0]), Place("events", 1, 99))
    records.append(SimpleNamespace(topic="dead.fanout", partition=1, offset=5, key=None, value=value, headers=headers))
    table._apply(records)
    rows = table.of("acme").to_pylist()
    assert [(row["letter"], row["topic"], row["offset"], row["redriven"]) for row in rows] == [
        ("1@0", "events", 0, True),
        ("1@1", "raw.acme.web", 1, False),
    ]
    assert "no such colour" in rows[0]["error"]
    assert table.of("other").num_rows == 1
    assert table.of("nobody").schema == DEAD_LETTERS
