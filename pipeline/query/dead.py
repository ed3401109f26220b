"""A partner's records on which our own code failed, from `dead.<role>`: what waits to be mended and redriven."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

import pyarrow as pa
from aiokafka import ConsumerRecord

from pipeline.lake.kinds import MOMENT, column
from pipeline.stream.dead_letters import DeadLetter, Place, marked
from pipeline.stream.follower import Follower, Following
from pipeline.stream.kafka import Kafka

__all__ = ["DEAD_LETTERS", "DeadTable"]

#: The roles that park records.
_ROLES = ("intake", "fanout")
#: Of a partner that are shown, the newest.
_MOST = 10_000

DEAD_LETTERS = pa.schema(
    [
        column("role", pa.string(), "whose code failed"),
        column("letter", pa.string(), "with role: what `headrace dead show` and `redrive` take"),
        column("time", MOMENT, "when it was parked"),
        column("topic", pa.string(), "where the record lies, with `partition` and `offset`"),
        column("partition", pa.int32()),
        column("offset", pa.int64()),
        column("error", pa.string()),
        column("redriven", pa.bool_()),
    ]
)


class DeadTable(Following):
    """Follows the topics. Use from one event loop."""

    def __init__(self, kafka: Kafka, roles: tuple[str, ...] = _ROLES) -> None:
        #: By partner; a letter's row alone, for the record in it may be large.
        self._rows: defaultdict[str, OrderedDict[Place, dict[str, Any]]] = defaultdict(OrderedDict)
        self._redriven: set[Place] = set()
        super().__init__(Follower(kafka, [f"dead.{role}" for role in roles], self._apply, name="dead letters"))

    def of(self, partner: str) -> pa.Table:
        """The partner's, the newest 10,000."""
        rows = [row | {"redriven": place in self._redriven} for place, row in self._rows.get(partner, {}).items()]
        return pa.Table.from_pylist(rows, DEAD_LETTERS)

    def _apply(self, records: list[ConsumerRecord]) -> None:
        for record in records:
            place = marked(record)
            if place is not None:
                self._redriven.add(place)
                continue
            try:
                letter = DeadLetter.read(record)
            except ValueError:
                continue  # `headrace dead list` says so
            partner = _partner(letter)
            if partner is not None:
                rows = self._rows[partner]
                rows[letter.place] = _row(letter)
                while len(rows) > _MOST:
                    self._redriven.discard(rows.popitem(last=False)[0])


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "role": letter.role,
        "letter": f"{letter.place.partition}@{letter.place.offset}",
        "time": letter.parked,
        "topic": letter.original.topic,
        "partition": letter.original.partition,
        "offset": letter.original.offset,
        "error": letter.error,
    }


def _partner(letter: DeadLetter) -> str | None:
    """Whose record it is, by its topic or its key; None: nobody's that we know of."""
    name, _, rest = letter.original.topic.partition(".")
    if name == "raw":
        return rest.partition(".")[0] or None
    if letter.key is None or b"|" not in letter.key:
        return None
    return letter.key.partition(b"|")[0].decode(errors="replace")
