"""The limit of the client: plain aiokafka, batches in and batches out, no state, at least once.

Offsets are committed once a second, up to what is acknowledged; eight batches a partition may be on their way.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
import time
from collections import deque
from typing import Any

import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

BATCH = 5000
IN_FLIGHT = 32


async def main(spec: dict[str, Any]) -> None:
    channels, output = spec["channels"], spec["output"]
    consumer = AIOKafkaConsumer(
        spec["input"],
        bootstrap_servers=spec["bootstrap"],
        group_id=spec["group"],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=BATCH,
        max_partition_fetch_bytes=4 << 20,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=spec["bootstrap"],
        acks="all",
        enable_idempotence=True,
        compression_type="zstd",
        max_batch_size=1_000_000,
        max_request_size=2_000_000,
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await consumer.start()
    await producer.start()
    sent: deque[tuple[TopicPartition, int, asyncio.Future[Any]]] = deque()
    done: dict[TopicPartition, int] = {}
    committed_at = time.monotonic()
    # As the lanes do: what is loaded by now stays, and a batch is many objects that all live until it is sent.
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    try:
        while not stop.is_set():
            for tp, records in (await consumer.getmany(timeout_ms=200, max_records=BATCH)).items():
                builder = producer.create_batch()
                for record in records:
                    event = orjson.loads(record.value)
                    event["channel"] = channels[event["source"]]
                    value = orjson.dumps(event)
                    if builder.append(timestamp=None, key=record.key, value=value) is None:
                        future = await producer.send_batch(builder, output, partition=tp.partition)
                        sent.append((tp, record.offset, future))
                        builder = producer.create_batch()
                        builder.append(timestamp=None, key=record.key, value=value)
                future = await producer.send_batch(builder, output, partition=tp.partition)
                sent.append((tp, records[-1].offset + 1, future))
            while len(sent) > IN_FLIGHT:
                tp, offset, future = sent.popleft()
                await future
                done[tp] = offset
            if done and time.monotonic() - committed_at > 1:
                await consumer.commit(done)
                done, committed_at = {}, time.monotonic()
        for tp, offset, future in sent:
            await future
            done[tp] = offset
        if done:
            await consumer.commit(done)
    finally:
        await producer.stop()
        await consumer.stop()


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
