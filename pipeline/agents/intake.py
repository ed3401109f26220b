"""Intake: raw topics in; `events`, `rejected` and `sources.activity` out. No state; wiring only (the rules are in
`judge` and `judge_policy`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import orjson

from pipeline.agents.activity import ACTIVITY, Tally
from pipeline.agents.config import lane_config
from pipeline.agents.geoip import open_countries
from pipeline.agents.judge import judge, rejected
from pipeline.agents.judge_policy import judge_all
from pipeline.agents.policies import Policies
from pipeline.control.log import ControlLog
from pipeline.events.facts import CountryOf
from pipeline.events.rules import Rules
from pipeline.events.user_agents import warm
from pipeline.events.verdicts import DropError, RejectError
from pipeline.models.control import Source
from pipeline.models.event import WATERMARK_KEY
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka, disconnect
from pipeline.stream.lanes import LaneApp
from pipeline.stream.reader import Batch, Record
from pipeline.stream.transaction import Transaction

__all__ = ["Intake", "IntakeLane"]

log = logging.getLogger(__name__)


class IntakeLane:
    """The processor of one intake lane: each raw record becomes events, routed by their keys, or a rejection."""

    def __init__(self, control: ControlLog, policies: Policies, country_of: CountryOf | None) -> None:
        self._control = control
        self._policies = policies
        self._country_of = country_of

    def topics(self) -> set[str]:
        """The raw topic of every source, switched off and removed ones too: what is written there is rejected."""
        self._policies.follow(self._control.state)
        return self._policies.topics

    async def process(self, batches: Sequence[Batch], txn: Transaction) -> None:
        """Judge each record by the state of the control log as it is now; and say what was done, source by source."""
        self._policies.follow(self._control.state)
        tallies: dict[str, Tally] = {}
        for batch in batches:
            rules = self._policies.of(batch.topic)
            tally = tallies.get(batch.topic)
            if tally is None:
                tally = tallies[batch.topic] = Tally(batch.topic, rules.source if rules is not None else None)
            if rules is None or rules.plain:
                self._plain(batch, rules, tally, txn)
            else:
                self._by_policy(batch, rules, tally, txn)
        for tally in tallies.values():
            txn.send(ACTIVITY, *tally.record())

    def _plain(self, batch: Batch, rules: Rules | None, tally: Tally, txn: Transaction) -> None:
        """Records that are the events themselves."""
        source = rules.source if rules is not None else None
        control, country_of, route = self._policies.offset, self._country_of, txn.route
        for record in batch.records:
            tally.see(record)
            try:
                key, value = judge(
                    source,
                    record.value,
                    record.headers,
                    appended=record.timestamp,
                    control=control,
                    fallback_id=f"k:{batch.partition}:{record.offset}",
                    rules=rules,
                    country_of=country_of,
                )
            except RejectError as error:
                self._reject(batch, record, source, error, tally, txn)
            else:
                tally.accept(record)
                route("events", key, value)

    def _by_policy(self, batch: Batch, rules: Rules, tally: Tally, txn: Transaction) -> None:
        """Records that the source's mapping, or consent, changes before they are judged."""
        for record in batch.records:
            tally.see(record)
            try:
                events = judge_all(
                    rules.source,
                    record.value,
                    record.headers,
                    appended=record.timestamp,
                    control=self._policies.offset,
                    fallback_id=f"k:{batch.partition}:{record.offset}",
                    rules=rules,
                    country_of=self._country_of,
                )
            except RejectError as error:
                self._reject(batch, record, rules.source, error, tally, txn)
            except DropError as dropped:
                tally.drop(dropped.why)
            else:
                tally.accept(record, len(events))
                for key, value in events:
                    txn.route("events", key, value)

    def _reject(
        self, batch: Batch, record: Record, source: Source | None, error: RejectError, tally: Tally, txn: Transaction
    ) -> None:
        tally.reject(error.reason)
        body = rejected(
            error,
            topic=batch.topic,
            partition=batch.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            key=record.key,
            value=record.value,
            headers=record.headers,
            source=source,
        )
        _, partner, name = batch.topic.split(".", 2)
        txn.send("rejected", f"{partner}.{name}".encode(), body)

    def tick(self, now_ms: int, txn: Transaction) -> bool:
        """Nothing: intake has no timers."""
        return False

    def reset(self) -> None:
        """Nothing: intake remembers nothing."""


class Intake:
    """The role: its lanes, and the watermarks that say how far they are."""

    def __init__(self, kafka: Kafka, control: ControlLog, settings: Settings) -> None:
        config = lane_config(
            kafka,
            settings,
            "intake",
            guarantee=settings.intake_guarantee,
            frontier_ms=settings.watermark_ms,
        )
        policies, country_of = Policies(), open_countries(settings.geoip)
        self.lanes = LaneApp(config, lambda _: IntakeLane(control, policies, country_of))
        self._kafka = kafka
        self._every = settings.watermark_ms / 1000
        self._count = settings.lanes
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Join the group and begin to publish watermarks."""
        await asyncio.to_thread(warm)
        await self.lanes.start()
        self._task = asyncio.create_task(self._watermarks(), name="watermarks")

    async def stop(self) -> None:
        """Finish what is at hand and leave."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.lanes.stop()

    async def _watermarks(self) -> None:
        """Every 200 ms, on every partition of `events`: how far the lanes of this process are (decision 8).

        Outside the lanes' transactions: a frontier is taken after its commit was acknowledged, so on every
        partition the watermark stands behind the events it speaks of; and it stays true whoever owns the lane
        by then, so a zombie's is harmless. One small request for all lanes, where transactions would cost
        lanes x lanes records and a commit each.
        """
        producer = self._kafka.producer(linger_ms=0, compression_type=None)
        await producer.start()
        published: dict[str, int] = {}
        try:
            while True:
                await asyncio.sleep(self._every)
                moments = {str(number): lane.frontier.moment for number, lane in self.lanes.running.items()}
                frontiers = {number: moment for number, moment in moments.items() if moment}
                if not frontiers or frontiers == published:
                    continue
                body = orjson.dumps({"received": frontiers})
                try:
                    acks = [
                        await producer.send("events", body, key=WATERMARK_KEY, partition=partition)
                        for partition in range(self._count)
                    ]
                    await asyncio.gather(*acks)
                    published = frontiers
                except Exception as error:
                    # The next round says it again; until then exits wait, which is late and never wrong.
                    log.warning("watermarks not published: %r", error)
        finally:
            await disconnect(producer)
