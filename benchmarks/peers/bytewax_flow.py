"""Bytewax: a stateful map between a Kafka source and a Kafka sink, one worker.

Bytewax keeps state in memory and snapshots it with the source's offsets to SQLite, at the end of every epoch of five
seconds; it has no changelog topic.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

spec: dict[str, Any] = json.loads(sys.argv[1])
channels: dict[str, str] = spec["channels"]


def decode(message: KafkaSourceMessage[bytes, bytes]) -> tuple[str, tuple[bytes, dict[str, Any]]]:
    event = orjson.loads(message.value)
    event["channel"] = channels[event["source"]]
    return f"{event['userId']}|{event['channel']}", (message.key, event)


def count(state: int | None, item: tuple[bytes, dict[str, Any]]) -> tuple[int, KafkaSinkMessage[bytes, bytes]]:
    key, event = item
    number = (state or 0) + 1
    event["count"] = number
    return number, KafkaSinkMessage(key, orjson.dumps(event))


brokers = [spec["bootstrap"]]
flow = Dataflow("peer")
source = KafkaSource(brokers, [spec["input"]], batch_size=5000)
messages = op.input("in", flow, source)
counted = op.stateful_map("count", op.map("decode", messages, decode), count)
settings = {
    "acks": "all",
    "enable.idempotence": "true",
    "compression.type": "zstd",
    "partitioner": "murmur2",
    "linger.ms": "5",
}
kop.output("out", op.key_rm("drop", counted), brokers=brokers, topic=spec["output"], add_config=settings)

if __name__ == "__main__":
    store = Path(spec["state_dir"])
    store.mkdir(parents=True, exist_ok=True)
    init_db_dir(store, 1)
    cli_main(flow, recovery_config=RecoveryConfig(store), epoch_interval=timedelta(seconds=5))
