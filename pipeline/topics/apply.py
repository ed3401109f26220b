"""Changing the cluster, as far as it is safe: create what is missing, grow what may grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from pipeline.stream.kafka import Kafka
from pipeline.topics.plan import Plan
from pipeline.topics.spec import Topic

__all__ = ["apply", "ensure"]

_VISIBLE_SECONDS = 30.0


async def apply(kafka: Kafka, plan: Plan) -> None:
    """Do what ``plan`` says is safe; what it refuses stays. Idempotent; another applier at work does no harm.

    Returns when every created topic has a leader for each partition. Raises KafkaError, naming the topic.
    """
    create = {change.topic for change in plan.changes if change.action == "create"}
    await ensure(kafka, [topic for topic in plan.wanted if topic.name in create])
    changed: dict[str, dict[str, str]] = {}
    for change in plan.changes:
        if change.action == "set" and change.after is not None:
            changed.setdefault(change.topic, dict(plan.present.get(change.topic, {})))[change.what] = change.after
    if not changed:
        return
    admin = kafka.admin()
    await admin.start()
    try:
        resources = [ConfigResource(ConfigResourceType.TOPIC, name, config) for name, config in changed.items()]
        for response in await admin.alter_configs(resources):
            for code, message, _, name in response.resources:
                if code:
                    raise for_code(code)(f"{name}: {message}")
    finally:
        await admin.close()


async def ensure(kafka: Kafka, topics: Iterable[Topic]) -> None:
    """Create the ones that are missing, as they should be; ones that are there are left as they are.

    Returns when all have leaders. Raises KafkaError, naming the topic, and TimeoutError after 30 s.
    """
    topics = list(topics)
    if not topics:
        return
    admin = kafka.admin()
    await admin.start()
    try:
        there = set(await admin.list_topics())
        missing = [topic for topic in topics if topic.name not in there]
        if missing:
            new = [NewTopic(t.name, t.partitions, t.replication, topic_configs=dict(t.config)) for t in missing]
            response = await admin.create_topics(new)
            for name, code, *message in response.topic_errors:
                if code and code != TopicAlreadyExistsError.errno:
                    raise for_code(code)(f"{name}: {message[0] if message else ''}")
        await _visible(admin, [topic.name for topic in topics])
    finally:
        await admin.close()


async def _visible(admin: Any, names: list[str]) -> None:
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while True:
        found = {t["topic"]: t["partitions"] for t in await admin.describe_topics(names) if not t["error_code"]}
        waiting = [name for name in names if not _led(found.get(name))]
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"topic {waiting[0]} was created and has no leader after {_VISIBLE_SECONDS:g} s")
        await asyncio.sleep(0.05)


def _led(partitions: list[dict[str, Any]] | None) -> bool:
    return bool(partitions) and all(p["leader"] >= 0 for p in partitions or ())
