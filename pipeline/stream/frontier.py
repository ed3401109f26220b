"""How far a lane's input is processed, in the broker's time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from aiokafka import TopicPartition

from pipeline.stream.reader import Batch, Reader

__all__ = ["Frontier"]

#: The ends of hundreds of topics, or those of a busy broker, are not asked for all the time: an answer that took long
#: is followed by so many times as long without a question.
_COSTS = 5
#: Nobody waits longer than this for a watermark on that account.
_LONGEST_MS = 500


class Frontier:
    """``moment``: all input appended before it (ms, the broker's clock) is processed and committed; 0: not known.

    ``every_ms``: how often, at most, the ends of the input are asked for; None: never.
    """

    def __init__(self, every_ms: int | None) -> None:
        self.moment = 0
        self._every = every_ms
        self._asked = 0
        self._cost_ms = 0
        self._ends: dict[TopicPartition, int] | None = None

    async def ask(self, reader: Reader, partitions: Sequence[TopicPartition]) -> None:
        """Ask the broker for the ends, unless it is too soon to ask again. Call before the input is read.

        Only an answer to a question asked now can say that nothing from before now is unread: a long poll that
        came back empty says nothing of the moment it was sent.
        """
        now = int(time.time() * 1000)
        self._ends = None
        if self._every is None or now - self._asked < max(self._every, min(self._cost_ms * _COSTS, _LONGEST_MS)):
            return
        self._asked = now
        self._ends = dict(await reader.end_offsets(partitions)) if partitions else {}
        self._cost_ms = int(time.time() * 1000) - now

    def advance(self, positions: Mapping[TopicPartition, int], taken: Sequence[Batch]) -> None:
        """``taken`` is processed, up to ``positions``: to the moment of the question if all that was there then is
        done, else as far as the hindmost partition. Does nothing where the question was not asked."""
        if self._ends is None:
            return
        behind = {tp for tp, end in self._ends.items() if positions.get(tp, end) < end}
        if not behind:
            self.moment = max(self.moment, self._asked)
            return
        # Brokers stamp records as they append them (LogAppendTime), so stamps rise within a partition.
        newest = {TopicPartition(batch.topic, batch.partition): batch.records[-1].timestamp for batch in taken}
        if behind <= newest.keys():
            self.moment = max(self.moment, min(newest[tp] for tp in behind))
