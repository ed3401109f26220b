"""What came out: transitions, history and refusals as they are committed, and the counts of the query API."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

import orjson
from aiokafka import ConsumerRecord, TopicPartition

from pipeline.demo.partner import DemoPartner
from pipeline.stream.follower import Follower
from pipeline.stream.kafka import Kafka
from pipeline.topics.spec import ROLES

__all__ = ["Watch"]

_TOPICS = ("segments.transitions", "history", "rejected", *(f"dead.{role}" for role in ROLES))
_SHOWN = 8


class Watch:
    """One partner's outputs since `start`, which must come before the first event.

    ``history``: (source, message id) -> event time, ms. ``transitions``: by their id. ``rejected``: how many by
    reason. ``dead``: errors of dead letters, any partner's. ``counts``: by segment, as last asked for.
    """

    def __init__(self, kafka: Kafka, partner: DemoPartner) -> None:
        self.counts: dict[str, dict[str, Any]] = {}
        self.history: dict[tuple[str, str], int] = {}
        self.repeats = 0
        self.accepted: Counter[str] = Counter()
        self.transitions: dict[str, dict[str, Any]] = {}
        self.latest: deque[dict[str, Any]] = deque(maxlen=_SHOWN)
        self.rejected: Counter[str] = Counter()
        self.dead: list[str] = []
        self._kafka = kafka
        self._partner = partner
        self._follower: Follower | None = None

    async def start(self) -> None:
        """Follow the topics from their present ends on."""
        starts = await self._ends()
        self._follower = Follower(self._kafka, _TOPICS, self._apply, name="demo", start_at=starts)
        await self._follower.start()

    async def stop(self) -> None:
        """Stop following; what was seen stays."""
        if self._follower is not None:
            await self._follower.stop()

    async def refresh(self) -> None:
        """Ask the query API for the counts. Raises httpx.HTTPError, RuntimeError, and what ended the follower."""
        if self._follower is not None and self._follower.failure.done():
            self._follower.failure.result()
        self.counts = await self._partner.counts()

    def rows(self) -> list[dict[str, Any]]:
        """For the shop's corner."""
        rows = []
        for segment, answer in self.counts.items():
            here = {row["name"]: row["customers"] for row in answer["by_source"]}
            if segment in ("jackets-online", "just-now", "buyers", "undecided"):
                rows.append({"name": segment, "here": here.get("online-store", 0), "all": answer["total"]["customers"]})
        return rows

    async def _ends(self) -> dict[tuple[str, int], int]:
        consumer = self._kafka.consumer()
        await consumer.start()
        try:
            async with asyncio.timeout(30):
                while True:
                    found: dict[str, Iterable[int] | None] = {t: consumer.partitions_for_topic(t) for t in _TOPICS}
                    if all(found.values()):
                        break
                    await consumer._client.set_topics(_TOPICS)
            ends = await consumer.end_offsets([TopicPartition(t, p) for t, parts in found.items() for p in parts or ()])
            return {(tp.topic, tp.partition): offset for tp, offset in ends.items()}
        finally:
            await consumer.stop()

    def _apply(self, records: list[ConsumerRecord]) -> None:
        for record in records:
            row = orjson.loads(record.value)
            if record.topic.startswith("dead."):
                if "error" in row:  # a marker of a redrive has none
                    self.dead.append(f"{record.topic}: {row['error']}")
            elif row["partner"] != self._partner.id:
                continue
            elif record.topic == "rejected":
                self.rejected[row["reason"]] += 1
            elif record.topic == "history":
                self.repeats += (row["source"], row["id"]) in self.history
                self.history[row["source"], row["id"]] = row["time"]
                self.accepted[row["source"]] += 1
            elif row["id"] not in self.transitions:
                self.transitions[row["id"]] = row
                self.latest.append(row)
