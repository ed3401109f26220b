"""Reading what is decided: no transaction open below it, no offset that an open one may yet change.

Once a lane's producer has begun, what its predecessor had begun is committed or aborted, by Kafka's word. Brokers have
broken it: a coordinator of 4.3.0 to 4.4.0 takes a partition that has no leader at the moment for one that was deleted,
writes no marker there and calls the transaction complete (KAFKA-20734; seen where a single broker was killed). Who
went on would read a state and offsets of before that transaction, and do its work twice. Nobody goes on here.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, LeaderNotAvailableError, NotCoordinatorForGroupError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from pipeline.stream.kafka import Consumer

__all__ = ["Undecided", "committed", "decided"]

#: How long a commit or an abort that is under way may take: its markers are written one partition after the other.
_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.05
_LATEST = -1
_UNCOMMITTED, _COMMITTED = 0, 1
_UNSTABLE = 88


class Undecided(KafkaError):  # type: ignore[misc]
    """A transaction is neither committed nor aborted, and whose it is has no open one."""


class _OffsetFetchResponse(Response):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _OffsetFetchStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _OffsetFetchResponse
    SCHEMA = Schema(
        ("group", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class _OffsetFetch(Request[_OffsetFetchStruct]):  # type: ignore[misc]
    """OffsetFetch version 7, the first that knows ``require_stable`` (KIP-447); aiokafka's ends at 3."""

    API_KEY = 9

    def __init__(self, group: str, topics: Sequence[tuple[str, list[int]]]) -> None:
        self._group = group
        self._topics = topics

    def build(self, request_struct_class: type[_OffsetFetchStruct]) -> _OffsetFetchStruct:
        topics: list[tuple[str, list[int], dict[int, bytes]]] = [(name, numbers, {}) for name, numbers in self._topics]
        return request_struct_class(self._group, topics, True, {})


async def committed(consumer: Consumer, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int | None]:
    """The offsets that the consumer's group has committed, all by one request; None where there is none.

    Waits while a transaction that holds offsets of these partitions is open. Raises `Undecided` after 10 s, KafkaError.
    """
    found: dict[TopicPartition, int | None] = {}

    async def held() -> set[TopicPartition]:
        offsets, unstable = await _fetch_offsets(consumer, partitions)
        found.update((tp, offset if (offset := offsets.get(tp, -1)) >= 0 else None) for tp in partitions)
        return unstable

    if partitions:
        await _until_none(held, "holds offsets of")
    return found


async def decided(consumer: Consumer, partitions: Collection[TopicPartition]) -> None:
    """Return when no transaction is open on ``partitions``, whose writers are fenced.

    Raises `Undecided` after 10 s, KafkaError.
    """

    async def opened() -> set[TopicPartition]:
        ends = await _ends(consumer, partitions, _UNCOMMITTED)
        stable = await _ends(consumer, partitions, _COMMITTED)
        return {tp for tp in partitions if stable[tp] < ends[tp]}

    if partitions:
        await _until_none(opened, "is open on")


async def _until_none(look: Callable[[], Awaitable[set[TopicPartition]]], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            left = await look()
        except KafkaError as error:  # a leader or a coordinator that is being found
            if not error.retriable or time.monotonic() > deadline:
                raise
        else:
            if not left:
                return
            if time.monotonic() > deadline:
                names = ", ".join(f"{tp.topic}[{tp.partition}]" for tp in sorted(left))
                raise Undecided(f"a transaction {what} {names}, and none of ours is under way: see docs/failures.md")
        await asyncio.sleep(_LOOK_SECONDS)


async def _fetch_offsets(
    consumer: Consumer, partitions: Collection[TopicPartition]
) -> tuple[dict[TopicPartition, int], set[TopicPartition]]:
    """Offsets, and the partitions whose offsets a transaction may yet change."""
    coordinator = consumer._coordinator
    await coordinator.ensure_coordinator_known()
    response = await coordinator._send_req(_OffsetFetch(coordinator.group_id, list(_by_topic(partitions).items())))
    offsets: dict[TopicPartition, int] = {}
    unstable: set[TopicPartition] = set()
    codes = {response.error_code}
    for topic, told, _ in response.topics:
        for number, offset, _, _, code, _ in told:
            if code == _UNSTABLE:
                unstable.add(TopicPartition(topic, number))
            else:
                codes.add(code)
                offsets[TopicPartition(topic, number)] = offset
    for code in codes - {0}:
        if for_code(code) is NotCoordinatorForGroupError:
            coordinator.coordinator_dead()
        raise for_code(code)(coordinator.group_id)
    return offsets, unstable


async def _ends(
    consumer: Consumer, partitions: Collection[TopicPartition], isolation: int
) -> dict[TopicPartition, int]:
    client = consumer._client
    by_leader: dict[int, list[TopicPartition]] = defaultdict(list)
    for tp in partitions:
        leader = client.cluster.leader_for_partition(tp)
        if leader is None or leader == -1:
            client.force_metadata_update()
            raise LeaderNotAvailableError(tp)
        by_leader[leader].append(tp)
    ends: dict[TopicPartition, int] = {}
    for leader, led in by_leader.items():
        wanted = [(topic, [(number, _LATEST) for number in numbers]) for topic, numbers in _by_topic(led).items()]
        response = await client.send(leader, OffsetRequest(-1, isolation, wanted))
        for topic, told in response.topics:
            for number, code, _, offset in told:
                if code:
                    client.force_metadata_update()
                    raise for_code(code)(TopicPartition(topic, number))
                ends[TopicPartition(topic, number)] = offset
    return ends


def _by_topic(partitions: Collection[TopicPartition]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for tp in partitions:
        found[tp.topic].append(tp.partition)
    return found
