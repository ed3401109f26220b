"""Dead letters on a real broker: parked, listed, and redriven once, whatever comes between."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import subprocess
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import counting_worker
import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import ProducerFenced
from aiokafka.structs import TopicPartition
from counting_worker import Counting, lane_app
from eventually import eventually
from parked import failing_role, park, produce
from records import make_topic, read_all

from pipeline.stream import redrive as redrive_module
from pipeline.stream.dead_letters import (
    APPENDED,
    ORIGINAL,
    REDRIVEN,
    Choice,
    DeadLetter,
    DeadLetterError,
    DeadLetters,
    Originals,
    Place,
    letter,
)
from pipeline.stream.kafka import Kafka
from pipeline.stream.reader import Batch
from pipeline.stream.redrive import Outcome, Redrive
from pipeline.stream.transaction import Transaction

BUG = ValueError("a bug of ours")


@pytest.fixture(autouse=True)
async def quiet() -> None:
    """A producer that is fenced leaves futures behind that nobody awaits, and asyncio complains of each."""
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: (
            None if isinstance(context.get("exception"), ProducerFenced) else loop.default_exception_handler(context)
        )
    )


async def listed(kafka: Kafka, role: str, choice: Choice | None = None) -> list[DeadLetter]:
    return [found async for found in DeadLetters(kafka, role).list(choice)]


async def redriven(kafka: Kafka, role: str, choice: Choice | None = None, **options: Any) -> list[Outcome]:
    return [outcome async for outcome in Redrive(DeadLetters(kafka, role), choice, **options).run()]


async def parked(kafka: Kafka, role: str, values: Iterable[bytes | None], partition: int = 0) -> list[Place]:
    """A role that has failed on these values; where the letters lie."""
    topic = await failing_role(kafka, role)
    await produce(kafka, topic, [(b"k", value) for value in values], partition)
    return await park(kafka, role, await read_all(kafka, topic), BUG)


async def copies(kafka: Kafka, topic: str) -> Counter[bytes]:
    """How often each value was redriven."""
    return Counter(record.value for record in await read_all(kafka, topic) if REDRIVEN in dict(record.headers))


# -- the letter ---------------------------------------------------------------------------------------------------


def record(value: bytes | None, key: bytes | None = b"k", headers: Sequence[tuple[str, bytes | None]] = ()) -> Any:
    return SimpleNamespace(offset=7, timestamp=1_790_000_000_000, key=key, value=value, headers=headers)


def test_a_letter_holds_the_record_the_error_and_the_traceback() -> None:
    try:
        raise KeyError("customer")
    except KeyError as error:
        body = orjson.loads(
            letter("fanout", 3, "events", 3, record(b"\xff", headers=[("h", b"1"), ("n", None)]), error)
        )
    assert body.pop("parked") > 1_790_000_000_000 - 10**11
    assert "test_dead_letters.py" in body["traceback"]
    assert body.pop("traceback").rstrip().endswith("KeyError: 'customer'")
    assert body == {
        "role": "fanout",
        "lane": 3,
        "topic": "events",
        "partition": 3,
        "offset": 7,
        "timestamp": 1_790_000_000_000,
        "error": "KeyError('customer')",
        "key": "aw==",
        "value": "/w==",
        "headers": [["h", "MQ=="], ["n", ""]],
    }


def test_a_letter_leaves_out_what_would_make_it_too_large() -> None:
    def body(of: Any) -> dict[str, Any]:
        written = letter("fanout", 0, "events", 0, of, BUG)
        assert len(written) <= 900_000
        fields: dict[str, Any] = orjson.loads(written)
        return fields

    assert len(b64decode(body(record(b"v" * 600_000))["value"])) == 600_000
    large = body(record(b"v" * 700_000, headers=[("h", b"1")]))
    assert (large["value"], large["key"], large["headers"]) == (None, "aw==", [["h", "MQ=="]])
    for of in (record(b"v", key=b"k" * 700_000), record(b"v", headers=[("h", b"h" * 700_000)])):
        assert (body(of)["value"], body(of)["key"], body(of)["headers"]) == (None, None, [])


def test_an_error_that_is_no_proper_text_or_endless_still_makes_a_letter() -> None:
    body = orjson.loads(letter("fanout", 0, "events", 0, record(b"v"), ValueError("\ud800" + "long" * 100_000)))
    assert body["error"].startswith("ValueError('\\ud800long")
    assert len(body["error"]) <= 2_000
    assert len(body["traceback"]) <= 20_100


# -- the whole way ------------------------------------------------------------------------------------------------


class Mended(Counting):
    """The role after the fix: poison counts as anything else."""

    async def process(self, batches: Sequence[Batch], txn: Transaction) -> None:
        mended = [Batch(topic, partition, [_mended(each) for each in records]) for topic, partition, records in batches]
        await super().process(mended, txn)


def _mended(of: Any) -> Any:
    value = b"mended" if of.value == b"poison" else of.value
    return SimpleNamespace(offset=of.offset, timestamp=of.timestamp, key=of.key, value=value, headers=of.headers)


@pytest.fixture
async def role(kafka: Kafka, prefix: str) -> str:
    """Topics of a fresh counting role."""
    for topic in ("in0", "in1", "out", "log"):
        await make_topic(kafka, f"{prefix}.{topic}", 2, **{"message.timestamp.type": "LogAppendTime"})
    await make_topic(kafka, f"lanes.{prefix}", 2)
    await make_topic(kafka, f"dead.{prefix}", 2, **{"message.timestamp.type": "LogAppendTime"})
    return prefix


def inputs(role: str) -> set[str]:
    return {f"{role}.in0", f"{role}.in1"}


async def waiting(kafka: Kafka, role: str, count: int) -> list[DeadLetter]:
    """The letters, once so many wait."""

    async def there() -> list[DeadLetter]:
        found = await listed(kafka, role)
        assert len(found) == count, found
        return found

    return await eventually(there, 60, what=f"{count} dead letters")


@pytest.mark.kafka
async def test_what_a_bug_parked_is_applied_once_after_the_fix_and_a_redrive(
    kafka: Kafka, role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await produce(kafka, f"{role}.in0", [(b"a", b"1")] * 20 + [(b"a", b"poison")] + [(b"a", b"2")] * 20)
    await produce(kafka, f"{role}.in1", [(b"b", b"poison"), (b"b", b"1")], partition=1, headers=[("h", b"x")])
    failing = lane_app(kafka, role, 2, tmp_path, inputs(role))
    await failing.start()
    try:
        found = await waiting(kafka, role, 2)
    finally:
        await failing.stop()
    assert [(each.lane, each.original) for each in found] == [
        (0, Place(f"{role}.in0", 0, 20)),
        (1, Place(f"{role}.in1", 1, 0)),
    ]
    assert [each.error for each in found] == ["ValueError('a bug of ours')"] * 2
    assert all("in process" in each.traceback for each in found)

    monkeypatch.setattr(counting_worker, "Counting", Mended)
    mended = lane_app(kafka, role, 2, tmp_path, inputs(role))
    await mended.start()
    try:
        outcomes = await redriven(kafka, role)
        assert [(outcome.result, outcome.letter.original) for outcome in outcomes] == [
            ("redriven", each.original) for each in found
        ]

        async def applied() -> bool:
            return len(await read_all(kafka, f"{role}.out")) == 43

        await eventually(applied, 60, what="all records counted")
        assert await redriven(kafka, role) == []
    finally:
        await mended.stop()
    assert await listed(kafka, role) == []
    counts: dict[bytes, list[int]] = {}
    for each in await read_all(kafka, f"{role}.out"):
        counts.setdefault(each.key, []).append(int(each.value))
    assert counts == {b"a": list(range(1, 42)), b"b": [1, 2]}

    (again,) = [each for each in await read_all(kafka, f"{role}.in1") if each.offset == outcomes[1].to.offset]  # type: ignore[union-attr]
    assert (again.partition, again.key, again.value) == (1, b"b", b"poison")
    assert again.headers[0] == ("h", b"x")
    told = {name: content.decode() for name, content in again.headers}
    assert told[ORIGINAL] == f"{role}.in1[1]@0"
    assert told[REDRIVEN] == str(found[1].place)
    assert told[APPENDED].startswith("20")


@pytest.mark.kafka
async def test_a_poison_redriven_without_a_fix_is_parked_and_listed_anew_and_keeps_its_first_place(
    kafka: Kafka, role: str, tmp_path: Path
) -> None:
    await produce(kafka, f"{role}.in0", [(b"a", b"poison")])
    app = lane_app(kafka, role, 2, tmp_path, inputs(role))
    await app.start()
    try:
        (first,) = await waiting(kafka, role, 1)
        for _ in range(2):
            (known,) = await listed(kafka, role)
            (outcome,) = await redriven(kafka, role)
            assert outcome.letter.place == known.place

            async def anew(known: DeadLetter = known) -> DeadLetter:
                found = await listed(kafka, role)
                assert [each.place.offset > known.place.offset for each in found] == [True]
                return found[0]

            found: DeadLetter = await eventually(anew, 60, what="a new letter for the same record")
            assert found.original == outcome.to
            headers = dict(found.headers)
            assert headers[ORIGINAL].decode() == str(first.original)
            assert headers[REDRIVEN].decode() == str(known.place)
            assert [name for name, _ in found.headers] == [ORIGINAL, APPENDED, REDRIVEN]
    finally:
        await app.stop()
    assert len(await listed(kafka, role, Choice(redriven=True))) == 3


# -- once ---------------------------------------------------------------------------------------------------------


@pytest.mark.kafka
async def test_redriving_twice_does_nothing_the_second_time(kafka: Kafka, prefix: str) -> None:
    places = await parked(kafka, prefix, [b"0", b"1", b"2"])
    (one,) = await redriven(kafka, prefix, Choice(letters=[places[1][1:]]))
    assert one.letter.place == places[1]
    assert await redriven(kafka, prefix, Choice(letters=[places[1][1:]])) == []
    assert [outcome.letter.place for outcome in await redriven(kafka, prefix)] == [places[0], places[2]]
    assert await redriven(kafka, prefix) == []
    assert await copies(kafka, f"{prefix}.in") == {b"0": 1, b"1": 1, b"2": 1}
    assert [found.redriven for found in await listed(kafka, prefix, Choice(redriven=True))] == [True] * 3
    moved = await DeadLetters(kafka, prefix).moved(one.letter)
    assert moved is not None
    assert moved[1] == one.to == Place(f"{prefix}.in", 0, 3)


@pytest.mark.kafka
async def test_a_dry_run_changes_nothing(kafka: Kafka, prefix: str) -> None:
    places = await parked(kafka, prefix, [b"0", b"1"])
    outcomes = await redriven(kafka, prefix, dry_run=True)
    assert [(outcome.letter.place, outcome.result) for outcome in outcomes] == [(place, "would") for place in places]
    assert len(await read_all(kafka, f"{prefix}.in")) == 2
    assert len(await listed(kafka, prefix)) == 2


@pytest.mark.kafka
async def test_a_second_redrive_stops_the_first_and_each_record_is_written_once(
    kafka: Kafka, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redrive_module, "_MAX_LETTERS", 2)
    values = [b"%d" % n for n in range(6)]
    await parked(kafka, prefix, values)
    first = Redrive(DeadLetters(kafka, prefix)).run()
    assert (await anext(first)).result == "redriven"
    second = await redriven(kafka, prefix)
    assert [outcome.letter.original.offset for outcome in second] == [2, 3, 4, 5]
    with pytest.raises(DeadLetterError, match="another redrive"):
        async for _ in first:
            pass
    assert await copies(kafka, f"{prefix}.in") == dict.fromkeys(values, 1)
    assert await listed(kafka, prefix) == []


@pytest.mark.kafka
async def test_a_redrive_that_is_overtaken_before_its_commit_has_done_nothing(
    kafka: Kafka, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await parked(kafka, prefix, [b"0", b"1", b"2"])
    overtaken: list[list[Outcome]] = []
    commit = AIOKafkaProducer.commit_transaction

    async def late(producer: AIOKafkaProducer) -> None:
        if not overtaken:
            overtaken.append([])
            overtaken[0] += await redriven(kafka, prefix)
        await commit(producer)

    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", late)
    with pytest.raises(DeadLetterError, match="another redrive"):
        await redriven(kafka, prefix)
    assert [outcome.result for outcome in overtaken[0]] == ["redriven"] * 3
    assert await copies(kafka, f"{prefix}.in") == {b"0": 1, b"1": 1, b"2": 1}
    assert await listed(kafka, prefix) == []


@pytest.mark.kafka
async def test_many_redrives_at_once_write_each_record_once(
    kafka: Kafka, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redrive_module, "_MAX_LETTERS", 5)
    values = [b"%d" % n for n in range(40)]
    await parked(kafka, prefix, values)
    results = await asyncio.gather(*(redriven(kafka, prefix) for _ in range(4)), return_exceptions=True)
    assert all(isinstance(result, list | DeadLetterError) for result in results), results
    await redriven(kafka, prefix)
    assert await copies(kafka, f"{prefix}.in") == dict.fromkeys(values, 1)


KILLED = """
import asyncio, os, signal, sys
from aiokafka import AIOKafkaProducer
from pipeline.stream import redrive
from pipeline.stream.dead_letters import DeadLetters
from pipeline.stream.kafka import Kafka

redrive._MAX_LETTERS = 2
commit, commits = AIOKafkaProducer.commit_transaction, []

async def killed(producer):
    commits.append(1)
    if len(commits) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    await commit(producer)

async def main():
    AIOKafkaProducer.commit_transaction = killed
    async for _ in redrive.Redrive(DeadLetters(Kafka(sys.argv[1]), sys.argv[2])).run():
        pass

asyncio.run(main())
"""


@pytest.mark.kafka
async def test_a_redrive_killed_before_a_commit_leaves_nothing_half_done(kafka: Kafka, prefix: str) -> None:
    values = [b"%d" % n for n in range(5)]
    places = await parked(kafka, prefix, values)
    command = [sys.executable, "-c", KILLED, kafka.bootstrap_servers, prefix]
    ended = await asyncio.to_thread(subprocess.run, command, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    outcomes = await redriven(kafka, prefix)
    assert [outcome.letter.place for outcome in outcomes] == places[2:]
    assert await copies(kafka, f"{prefix}.in") == dict.fromkeys(values, 1)
    assert await listed(kafka, prefix) == []


@pytest.mark.kafka
async def test_a_redrive_that_is_cancelled_aborts_at_once(
    kafka: Kafka, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the readers of the original topic would wait for the transaction's timeout."""
    await parked(kafka, prefix, [b"0"])
    began = asyncio.Event()
    commit = AIOKafkaProducer.commit_transaction

    async def hang(producer: AIOKafkaProducer) -> None:
        began.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", hang)
    running = asyncio.create_task(redriven(kafka, prefix))
    await asyncio.wait_for(began.wait(), 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit)
    await produce(kafka, f"{prefix}.in", [(b"k", b"after")])
    assert [each.value for each in await read_all(kafka, f"{prefix}.in")] == [b"0", b"after"]
    assert len(await listed(kafka, prefix)) == 1


@pytest.mark.kafka
async def test_a_marker_behind_a_transaction_that_a_lane_has_open_is_waited_for(
    kafka: Kafka, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await parked(kafka, prefix, [b"0"])
    lane = kafka.producer(transactional_id=f"{prefix}-0")
    await lane.start()
    send = redrive_module._Writer.redrive

    async def behind(writer: Any, dead: str, ready: Any) -> list[Place]:
        await lane.begin_transaction()
        await lane.send_and_wait(dead, b"not committed", partition=0)
        return await send(writer, dead, ready)

    try:
        monkeypatch.setattr(redrive_module._Writer, "redrive", behind)
        assert len(await redriven(kafka, prefix)) == 1
        monkeypatch.setattr(redrive_module._Writer, "redrive", send)
        second = asyncio.create_task(redriven(kafka, prefix))
        # It can't know before the lane's transaction ends; one that did not wait would be done by then, and wrong.
        done, _ = await asyncio.wait([second], timeout=2)
        await lane.abort_transaction()
        assert await second == []
        assert not done
    finally:
        await lane.stop()
    assert await copies(kafka, f"{prefix}.in") == {b"0": 1}


# -- what the letter does not hold --------------------------------------------------------------------------------


@pytest.mark.kafka
async def test_a_value_too_large_for_its_letter_comes_from_where_the_record_lay(kafka: Kafka, prefix: str) -> None:
    large, larger = b"l" * 800_000, b"L" * 1_500_000
    await parked(kafka, prefix, [b"small", large, None, larger])
    found = await listed(kafka, prefix)
    assert [each.value for each in found] == [b"small", None, None, None]
    async with Originals(kafka) as originals:
        assert await originals.read(found[1]) == (b"k", large, [])
    outcomes = await redriven(kafka, prefix)
    assert [outcome.result for outcome in outcomes] == ["redriven"] * 4
    again = (await read_all(kafka, f"{prefix}.in"))[4:]
    assert [(each.key, each.value) for each in again] == [(b"k", value) for value in (b"small", large, None, larger)]
    assert [each.offset for each in again] == [outcome.to.offset for outcome in outcomes if outcome.to]


async def delete_records(kafka: Kafka, topic: str) -> None:
    admin = kafka.admin()
    await admin.start()
    try:
        tp = TopicPartition(topic, 0)
        await admin.delete_records({tp: RecordsToDelete(before_offset=2)})
    finally:
        await admin.close()


async def delete_topic(kafka: Kafka, topic: str) -> None:
    admin = kafka.admin()
    await admin.start()
    try:
        await admin.delete_topics([topic])

        async def gone() -> bool:
            return topic not in await admin.list_topics()

        await eventually(gone, 30, what=f"{topic} deleted")
    finally:
        await admin.close()


async def make_again(kafka: Kafka, topic: str) -> None:
    await delete_topic(kafka, topic)
    await make_topic(kafka, topic, 2, **{"message.timestamp.type": "LogAppendTime"})
    await produce(kafka, topic, [(b"k", b"another"), (b"k", b"another")])


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("take", "reason", "lost"),
    [
        (delete_records, r"\.in\[0\]@1 is not there any more, and the letter does not hold its value", [1]),
        (make_again, r"\.in\[0\]@1 is not there any more, and the letter does not hold its value", [1]),
        (delete_topic, r"topic .*\.in is not there any more", [0, 1]),
    ],
    ids=["records", "topic made again", "topic"],
)
async def test_what_retention_took_is_told_and_the_rest_is_redriven(
    kafka: Kafka, prefix: str, take: Callable[[Kafka, str], Any], reason: str, lost: list[int]
) -> None:
    await parked(kafka, prefix, [b"small", b"l" * 800_000])
    await take(kafka, f"{prefix}.in")
    outcomes = await redriven(kafka, prefix)
    assert [outcome.letter.original.offset for outcome in outcomes if outcome.result == "lost"] == lost
    assert all(re.search(reason, outcome.reason) for outcome in outcomes if outcome.result == "lost"), outcomes
    assert [found.original.offset for found in await listed(kafka, prefix)] == lost


@pytest.mark.kafka
async def test_a_record_that_the_broker_refuses_is_told_and_the_rest_is_redriven(kafka: Kafka, prefix: str) -> None:
    noise = random.Random(1).randbytes(300_000)  # no compression helps
    await parked(kafka, prefix, [b"0", noise, b"2"])
    admin = kafka.admin()
    await admin.start()
    try:
        limit = {"max.message.bytes": "100000"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, f"{prefix}.in", limit)])
    finally:
        await admin.close()
    outcomes = await redriven(kafka, prefix)
    assert [(outcome.letter.original.offset, outcome.result) for outcome in outcomes] == [
        (0, "redriven"),
        (1, "lost"),
        (2, "redriven"),
    ]
    assert "MessageSizeTooLarge" in outcomes[1].reason
    assert await copies(kafka, f"{prefix}.in") == {b"0": 1, b"2": 1}
    assert [found.original.offset for found in await listed(kafka, prefix)] == [1]


# -- the list -----------------------------------------------------------------------------------------------------


@pytest.mark.kafka
async def test_letters_are_chosen_by_lane_topic_time_error_and_place(kafka: Kafka, prefix: str) -> None:
    topic = await failing_role(kafka, prefix)
    other = f"{prefix}.other"
    await make_topic(kafka, other, 2)
    await produce(kafka, topic, [(b"k", b"0"), (b"k", b"1")])
    await produce(kafka, other, [(b"k", b"2")], partition=1)
    await park(kafka, prefix, await read_all(kafka, topic), ValueError("wrong"))
    await park(kafka, prefix, await read_all(kafka, other), KeyError("Missing"))

    async def chosen(**conditions: Any) -> list[bytes | None]:
        return [found.value for found in await listed(kafka, prefix, Choice(**conditions))]

    assert await chosen() == [b"0", b"1", b"2"]
    assert await chosen(lane=1) == [b"2"]
    assert await chosen(topic=other) == [b"2"]
    assert await chosen(topic=f"{prefix}.*") == [b"0", b"1", b"2"]
    assert await chosen(topic="in") == []
    assert await chosen(error="missing") == [b"2"]
    assert await chosen(error="wrong", lane=1) == []
    assert await chosen(letters=[(0, 1), (1, 0), (1, 9), (7, 0)]) == [b"1", b"2"]
    moments = {each.partition: each.timestamp for each in await read_all(kafka, f"dead.{prefix}")}
    assert await chosen(since=moments[1]) == [b"2"]
    assert await chosen(since=moments[1] + 1) == []
    assert [outcome.letter.value for outcome in await redriven(kafka, prefix, Choice(topic=other))] == [b"2"]
    assert await chosen() == [b"0", b"1"]


@pytest.mark.kafka
async def test_a_redrive_leaves_alone_what_was_parked_after_it_was_asked_for(kafka: Kafka, prefix: str) -> None:
    places = await parked(kafka, prefix, [b"0"])
    until = await DeadLetters(kafka, prefix).ends()
    await park(kafka, prefix, await read_all(kafka, f"{prefix}.in"), BUG)
    assert [outcome.letter.place for outcome in await redriven(kafka, prefix, until=until)] == places


@pytest.mark.kafka
async def test_what_is_no_letter_stops_nobody(kafka: Kafka, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    await parked(kafka, prefix, [b"0"])
    garbage = [b"no letter", b"[]", b"{}", b'{"role": 1, "value": "***"}', b"\xff", None]
    await produce(kafka, f"dead.{prefix}", [(b"k", each) for each in garbage])
    strange = [("headrace_marker", each) for each in (b"\xff", b"dead.other[0]@0", f"dead.{prefix}[1]@0".encode())]
    for header in strange:
        await produce(kafka, f"dead.{prefix}", [(b"k", b"no marker")], headers=[header])
    assert [found.value for found in await listed(kafka, prefix)] == [b"0"]
    assert len([each for each in caplog.records if "not a dead letter" in each.getMessage()]) == 9
    assert len(await redriven(kafka, prefix)) == 1


@pytest.mark.kafka
async def test_a_role_without_dead_letters_and_a_letter_that_is_not_there_are_told(kafka: Kafka, prefix: str) -> None:
    with pytest.raises(DeadLetterError, match=rf"dead\.{prefix} is not there"):
        await listed(kafka, prefix)
    with pytest.raises(DeadLetterError, match=rf"dead\.{prefix} is not there"):
        await redriven(kafka, prefix)
    await parked(kafka, prefix, [b"0"])
    with pytest.raises(DeadLetterError, match=f"no letter at 0@1 in dead.{prefix}"):
        await DeadLetters(kafka, prefix).find(0, 1)
    assert (await DeadLetters(kafka, prefix).find(0, 0)).value == b"0"
