"""A partner's records on which our own code failed, from `dead.<role>`: what waits to be mended and redriven."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict

import pyarrow as pa
from aiokafka import ConsumerRecord

from pipeline.lake.kinds import MOMENT, column
from pipeline.stream.dead_letters import DeadLetter, Place, marked
from pipeline.stream.follower import Follower
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


class DeadTable:
    """Follows the topics. Use from one event loop."""

    def __init__(self, kafka: Kafka, roles: tuple[str, ...] = _ROLES) -> None:
        self._letters: defaultdict[str, OrderedDict[Place, DeadLetter]] = defaultdict(OrderedDict)
        self._redriven: set[Place] = set()
        self._follower = Follower(kafka, [f"dead.{role}" for role in roles], self._apply, name="dead letters")

    async def start(self) -> None:
        """Return when all that was committed as of this call has been read. Raises TimeoutError."""
        await self._follower.start()

    async def stop(self) -> None:
        """Follow no more."""
        await self._follower.stop()

    @property
    def failure(self) -> asyncio.Future[None]:
        """Set with the exception when following has stopped by itself."""
        return self._follower.failure

    def lag(self) -> int:
        """Records that the topics hold and that are not read."""
        return self._follower.lag()

    def of(self, partner: str) -> pa.Table:
        """The partner's, the newest 10,000."""
        rows = [
            {
                "role": letter.role,
                "letter": f"{place.partition}@{place.offset}",
                "time": letter.parked,
                "topic": letter.original.topic,
                "partition": letter.original.partition,
                "offset": letter.original.offset,
                "error": letter.error,
                "redriven": place in self._redriven,
            }
            for place, letter in self._letters[partner].items()
        ]
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
                letters = self._letters[partner]
                letters[letter.place] = letter
                while len(letters) > _MOST:
                    self._redriven.discard(letters.popitem(last=False)[0])


def _partner(letter: DeadLetter) -> str | None:
    """Whose record it is, by its topic or its key; None: nobody's that we know of."""
    name, _, rest = letter.original.topic.partition(".")
    if name == "raw":
        return rest.partition(".")[0] or None
    if letter.key is None or b"|" not in letter.key:
        return None
    return letter.key.partition(b"|")[0].decode(errors="replace")
