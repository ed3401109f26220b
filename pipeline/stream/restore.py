"""Bringing a lane's store up to the end of its changelogs, read-committed, in bounded memory."""

from __future__ import annotations

import logging
import time

from aiokafka import TopicPartition

from pipeline.stream.kafka import Kafka
from pipeline.stream.store import MAX_AGE_SECONDS, Store

__all__ = ["restore"]

log = logging.getLogger(__name__)
_PROGRESS_SECONDS = 2.0
_MAX_RECORDS = 10_000


async def restore(kafka: Kafka, store: Store, lane: int, *, role: str) -> int:
    """Read partition ``lane`` of every changelog of ``store`` from where the store stands; returns records read.

    The store is wiped first when it is ahead of a changelog, behind its beginning, or so old that compaction
    may have dropped deletions that it never saw. Ends are asked for after the lane's producer has fenced its
    predecessor, so nothing is added while this runs.
    """
    topics = sorted({table.changelog for table in store.tables.values() if table.changelog})
    consumer = kafka.consumer(max_poll_records=_MAX_RECORDS, fetch_max_wait_ms=100)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, lane) for topic in topics]
        for tp in partitions:
            consumer._client.add_topic(tp.topic)
        ends = await consumer.end_offsets(partitions)
        starts = await consumer.beginning_offsets(partitions)
        if store.offsets and _unusable(store, starts, ends):
            log.warning("lane %s %d: the store does not fit its changelog; rebuilding it whole", role, lane)
            store.wipe()
        consumer.assign(partitions)
        for tp in partitions:
            consumer.seek(tp, max(store.offsets.get(tp.topic, 0), starts[tp]))
        positions = {tp: await consumer.position(tp) for tp in partitions}
        total = sum(max(0, ends[tp] - positions[tp]) for tp in partitions)
        done, reported = 0, time.monotonic()
        # The end is compared with the consumer's position, which passes transaction markers that no record
        # stands behind; comparing with the last record's offset would wait for ever at a trailing marker.
        while any(positions[tp] < ends[tp] for tp in partitions):
            batches = await consumer.getmany(timeout_ms=100)
            for tp in partitions:
                records = batches.get(tp, ())
                position = await consumer.position(tp)
                if position != positions[tp]:
                    store.restored(tp.topic, {r.key: r.value for r in records if r.key is not None}, position)
                    positions[tp] = position
                done += len(records)
            if time.monotonic() - reported > _PROGRESS_SECONDS:
                reported = time.monotonic()
                left = sum(max(0, ends[tp] - positions[tp]) for tp in partitions)
                log.info("lane %s %d: restoring, %.0f %%", role, lane, 100 * (1 - left / max(1, total)))
        return done
    finally:
        await consumer.stop()


def _unusable(store: Store, starts: dict[TopicPartition, int], ends: dict[TopicPartition, int]) -> bool:
    behind = False
    for tp, end in ends.items():
        offset = store.offsets.get(tp.topic)
        if offset is None:
            continue
        # A trailing commit marker stands between the last record and the end.
        if offset > end or offset < starts[tp]:
            return True
        behind = behind or offset < end - 1
    return behind and time.time() - store.written_at > MAX_AGE_SECONDS
