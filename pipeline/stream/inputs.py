"""A lane's partition of every input topic: where to begin, how far it is processed, what is not committed yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata

from pipeline.stream.config import LaneConfig
from pipeline.stream.decided import committed
from pipeline.stream.reader import Batch, open_reader

__all__ = ["Inputs", "place"]

log = logging.getLogger(__name__)
_LOOK_AGAIN_SECONDS = 0.5


def place(tp: TopicPartition) -> str:
    """A partition's name where offsets are written down."""
    return f"{tp.topic}:{tp.partition}"


class Inputs:
    """Reads partition ``lane`` of the topics it is told, one long poll for all.

    ``applied``: next offsets by `place` that the store vouches for (at least once); they win where they are further
    than the committed ones. ``positions`` is how far input is processed; `moved` what of that is not committed.
    """

    def __init__(self, config: LaneConfig, lane: int, applied: Mapping[str, int]) -> None:
        self.positions: dict[TopicPartition, int] = {}
        self.reader = open_reader(config.kafka, group_id=config.offsets_group, fetch_max_wait_ms=500)
        self._name = f"lane {config.role} {lane}"
        self._lane = lane
        self._applied = applied
        self._moved: dict[TopicPartition, int] = {}
        self._wanted: set[TopicPartition] = set()
        self._missing: set[TopicPartition] = set()
        self._look_again = 0.0

    async def start(self, topics: Iterable[str]) -> None:
        """Begin to read. Raises KafkaError."""
        await self.reader.start()
        await self.follow(topics)

    async def stop(self) -> None:
        """End."""
        await self.reader.stop()

    async def follow(self, topics: Iterable[str]) -> None:
        """Read these topics from now on: no rebalance, and no request unless something is new.

        A topic that is not there yet must not hold up the others: it is looked for again.
        """
        wanted = {TopicPartition(topic, self._lane) for topic in topics}
        if wanted == self._wanted and (not self._missing or time.monotonic() < self._look_again):
            return
        self._wanted = wanted
        positions = {tp: position for tp, position in self.positions.items() if tp in wanted}
        new = await self.reader.existing(wanted - positions.keys())
        self._missing = wanted - positions.keys() - new
        self._look_again = time.monotonic() + _LOOK_AGAIN_SECONDS
        if not new and len(positions) == len(self.positions):
            return
        positions |= await self._beginnings(new)
        self._moved = {tp: position for tp, position in self._moved.items() if tp in positions}
        self._read_from(positions)

    async def take(self, timeout: float, max_records: int) -> list[Batch]:
        """What has come; see `Reader.take`. Records that were removed before they were read are an alert."""
        try:
            return await self.reader.take(timeout, max_records)
        except OffsetOutOfRangeError as error:
            await self._passed_by(error.args[0])
            return []

    def processed(self, positions: Mapping[TopicPartition, int]) -> None:
        """Input is processed up to these, and its results are in the transaction to be committed."""
        self._moved |= {tp: offset for tp, offset in positions.items() if offset != self.positions.get(tp)}
        self.positions |= positions

    @property
    def moved(self) -> dict[TopicPartition, int]:
        """What the next commit has to say."""
        return dict(self._moved)

    def committed(self) -> None:
        """It was said."""
        self._moved.clear()

    def again(self) -> None:
        """Let the next commit say all positions, so that no offset expires that did not move for long (KIP-211)."""
        self._moved = dict(self.positions)

    async def commit(self) -> None:
        """Commit what moved, outside a transaction. Raises KafkaError."""
        if self._moved:
            await self.reader.commit({tp: OffsetAndMetadata(offset, "") for tp, offset in self._moved.items()})

    def lag(self) -> int:
        """Records that are not processed, as far as the last answers of the broker told."""
        return self.reader.behind(self.positions)

    async def _beginnings(self, partitions: set[TopicPartition]) -> dict[TopicPartition, int]:
        found: dict[TopicPartition, int] = {}
        for tp, offset in (await committed(self.reader, partitions)).items():
            told = [known for known in (offset, self._applied.get(place(tp))) if known is not None]
            if told:
                found[tp] = max(told)
        if fresh := partitions - found.keys():
            found |= await self.reader.beginning_offsets(list(fresh))
        return found

    async def _passed_by(self, partitions: Mapping[TopicPartition, int]) -> None:
        """Retention or a truncation took what we were to read: say what is lost, and go on with what there is."""
        starts: dict[TopicPartition, Any] = await self.reader.beginning_offsets(list(partitions))
        for tp, position in partitions.items():
            lost = f"{starts[tp] - position:,} offsets" if starts[tp] > position else "the log was cut or made anew"
            log.error(
                "ALERT input lost: %s is to read %s[%d] at %d, and it begins at %d (%s)",
                *(self._name, tp.topic, tp.partition, position, starts[tp], lost),
            )
        self._read_from(self.positions | starts)

    def _read_from(self, positions: dict[TopicPartition, int]) -> None:
        self.positions = positions
        self.reader.read_from(positions)
