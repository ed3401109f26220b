"""Quix Streams: a stateful function and an output topic, at least once; its state is in RocksDB, with a changelog.

A state of Quix belongs to the record's key, the customer, so the channel is the key within it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from quixstreams import Application, State

spec: dict[str, Any] = json.loads(sys.argv[1])
channels: dict[str, str] = spec["channels"]


def count(event: dict[str, Any], state: State) -> dict[str, Any]:
    channel = channels[event["source"]]
    number = state.get(channel, 0) + 1
    state.set(channel, number)
    event["channel"] = channel
    event["count"] = number
    return event


app = Application(
    broker_address=spec["bootstrap"],
    consumer_group=spec["group"],
    auto_offset_reset="earliest",
    processing_guarantee="exactly-once" if spec["exactly_once"] else "at-least-once",
    state_dir=spec["state_dir"],
    producer_extra_config={"acks": "all", "enable.idempotence": True, "compression.type": "zstd"},
    loglevel="WARNING",
)
source = app.topic(spec["input"], key_deserializer="bytes", value_deserializer="json")
target = app.topic(spec["output"], key_serializer="bytes", value_serializer="json")
app.dataframe(source).apply(count, stateful=True).to_topic(target)

if __name__ == "__main__":
    app.run()
