"""Faust as its users write it: an agent, a Table, one event at a time; the table in RocksDB (rocksdict).

Faust has no setting for an idempotent producer without its exactly-once mode; the rest is as in all contenders.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import mode.loop

mode.loop.use("uvloop")

import faust  # noqa: E402
import orjson  # noqa: E402

spec: dict[str, Any] = json.loads(sys.argv[1])
channels: dict[str, str] = spec["channels"]

app = faust.App(
    spec["group"],
    broker=f"kafka://{spec['bootstrap']}",
    store="rocksdb://",
    datadir=spec["state_dir"],
    topic_partitions=spec["partitions"],
    topic_disable_leader=True,
    producer_acks=-1,
    producer_compression_type="zstd",
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)
events = app.topic(spec["input"], key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw")
enriched = app.topic(spec["output"], key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw")
counts = app.Table("counts", default=int, partitions=spec["partitions"])


@app.agent(events)
async def count(stream: AsyncIterator[bytes]) -> None:
    async for key, value in stream.items():  # type: ignore[attr-defined]
        event = orjson.loads(value)
        channel = channels[event["source"]]
        place = f"{event['userId']}|{channel}"
        counts[place] += 1
        event["channel"] = channel
        event["count"] = counts[place]
        await enriched.send(key=key, value=orjson.dumps(event))


if __name__ == "__main__":
    sys.argv = ["faust", "worker", "--loglevel", "warn", "--without-web"]
    app.main()
