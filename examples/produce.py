"""A producer straight to Kafka: reads events, one JSON object a line, and writes them to a source's topic.

    python examples/produce.py PARTNER SOURCE < examples/events.jsonl

PARTNER and SOURCE are ids (the source's id, not its code). KAFKA_BOOTSTRAP_SERVERS names the cluster.
Needs aiokafka; docs/producers.md has the contract.
"""

import asyncio
import json
import os
import sys
import uuid

from aiokafka import AIOKafkaProducer


async def produce(partner: str, source: str) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
        enable_idempotence=True,  # with acks=all: what is acknowledged is written once and survives a broker's loss
        acks="all",
        linger_ms=5,  # so that many events share a batch
    )
    await producer.start()
    try:
        sent = []
        for line in filter(str.strip, sys.stdin):
            event = json.loads(line)
            # A repeat with the same messageId counts once, so give each event its own, and keep it for a retry.
            event.setdefault("messageId", str(uuid.uuid4()))
            # The same key for the same person keeps that person's events in order.
            person = event.get("userId") or event.get("anonymousId")
            key = f"{partner}|{'u' if event.get('userId') else 'a'}|{person}" if person else None
            value = json.dumps(event, ensure_ascii=False).encode()
            sent.append(await producer.send(f"raw.{partner}.{source}", value, key=key.encode() if key else None))
        await asyncio.gather(*sent)  # raises when the broker has refused one
        print(f"{len(sent)} events acknowledged")
    finally:
        await producer.stop()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    asyncio.run(produce(*sys.argv[1:]))
