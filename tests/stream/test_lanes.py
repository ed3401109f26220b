"""The engine on a real broker: exact through kill -9, restore, poison, new topics, two workers."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import orjson
import pytest
from aiokafka import ConsumerRecord
from aiokafka.admin import NewTopic
from counting_worker import lane_app
from eventually import eventually
from records import read_all

from pipeline.stream.kafka import Kafka
from pipeline.stream.lanes import LaneApp

LANES = 2
WORKER = Path(__file__).with_name("counting_worker.py")


async def make_topics(kafka: Kafka, names: list[str], lanes: int = LANES) -> None:
    admin = kafka.admin()
    await admin.start()
    try:
        config = {"message.timestamp.type": "LogAppendTime"}
        await admin.create_topics([NewTopic(name, lanes, 1, topic_configs=config) for name in names])
    finally:
        await admin.close()


async def produce(kafka: Kafka, topic: str, pairs: list[tuple[bytes, bytes]]) -> None:
    producer = kafka.producer(linger_ms=5)
    await producer.start()
    try:
        acks = [await producer.send(topic, value, key=key) for key, value in pairs]
        await asyncio.gather(*acks)
    finally:
        await producer.stop()


@pytest.fixture
async def role(kafka: Kafka, prefix: str) -> str:
    """Topics of a fresh counting role; its name."""
    topics = [f"{prefix}.in0", f"{prefix}.in1", f"{prefix}.out", f"{prefix}.log", f"lanes.{prefix}", f"dead.{prefix}"]
    await make_topics(kafka, topics)
    return prefix


@pytest.fixture
async def run(kafka: Kafka, role: str, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[LaneApp]]]:
    """Starts the role in this process; stopped when the test ends."""
    started: list[LaneApp] = []

    async def start(inputs: set[str] | None = None, stores: Path | None = None) -> LaneApp:
        app = lane_app(kafka, role, LANES, stores or tmp_path / "stores", inputs or {f"{role}.in0", f"{role}.in1"})
        await app.start()
        started.append(app)
        return app

    yield start
    for app in started:
        await app.stop()


def last_values(records: list[ConsumerRecord]) -> dict[bytes, int]:
    return {record.key: int(record.value) for record in records}


async def check_exact(kafka: Kafka, role: str, expected: Counter[bytes]) -> None:
    """Outputs and changelog say that each input was applied once, in order."""
    outputs = await read_all(kafka, f"{role}.out")
    told: dict[bytes, list[int]] = {}
    for record in outputs:
        told.setdefault(record.key, []).append(int(record.value))
    assert {key: counts[-1] for key, counts in told.items()} == dict(expected)
    assert all(counts == list(range(1, len(counts) + 1)) for counts in told.values())
    assert last_values(await read_all(kafka, f"{role}.log")) == dict(expected)


@pytest.mark.slow
@pytest.mark.kafka
async def test_state_and_outputs_are_exact_through_kill_9(kafka: Kafka, role: str, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    keys = [b"k%d" % n for n in range(200)]
    expected: Counter[bytes] = Counter()
    command = [sys.executable, str(WORKER), kafka.bootstrap_servers, role, str(LANES), str(tmp_path)]
    worker = subprocess.Popen(command)
    try:
        for round_ in range(4):
            for topic in ("in0", "in1"):
                pairs = [(rng.choice(keys), b"x" * rng.randrange(400)) for _ in range(4000)]
                await produce(kafka, f"{role}.{topic}", pairs)
                expected.update(key for key, _ in pairs)
            target = rng.uniform(0.2, 0.9) * expected.total()

            async def passed(target: float = target) -> bool:
                return len(await read_all(kafka, f"{role}.out")) >= target

            await eventually(passed, 60, what="some output before the kill")
            worker.kill()
            worker.wait()
            if round_ == 2:
                shutil.rmtree(tmp_path)  # a lost disk: the changelog brings it back
            worker = subprocess.Popen(command)

        async def done() -> bool:
            return len(await read_all(kafka, f"{role}.out")) >= expected.total()

        await eventually(done, 60, what="all input processed")
    finally:
        worker.terminate()
        worker.wait(30)
    await check_exact(kafka, role, expected)


@pytest.mark.kafka
async def test_a_record_our_code_fails_on_is_parked_and_the_rest_goes_on(
    kafka: Kafka, role: str, run: Callable[..., Awaitable[LaneApp]], caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [(b"a", b"1")] * 50 + [(b"a", b"poison")] + [(b"a", b"2")] * 50 + [(b"b", b"poison")]
    await produce(kafka, f"{role}.in0", pairs)
    app = await run()

    async def parked() -> bool:
        return len(await read_all(kafka, f"dead.{role}")) == 2 and len(await read_all(kafka, f"{role}.out")) == 100

    await eventually(parked, 60, what="two dead letters and a hundred outputs")
    await check_exact(kafka, role, Counter({b"a": 100}))
    letter = orjson.loads((await read_all(kafka, f"dead.{role}"))[0].value)
    assert letter["error"] == "ValueError('a bug of ours')"
    assert "in process" in letter["traceback"]
    assert letter["topic"] == f"{role}.in0"
    assert not app.failure.done()
    alerts = [r.getMessage() for r in caplog.records if r.getMessage().startswith("ALERT dead letter")]
    assert len(alerts) == 2
    assert f"{role}.in0" in alerts[0]


@pytest.mark.kafka
async def test_a_new_topic_is_read_within_two_seconds_without_a_rebalance(
    kafka: Kafka, role: str, run: Callable[..., Awaitable[LaneApp]]
) -> None:
    inputs = {f"{role}.in0"}
    app = await run(inputs)

    async def owned() -> bool:
        return len(app.running) == LANES and all(lane.frontier.moment for lane in app.running.values())

    await eventually(owned, 60, what="lanes assigned")
    lanes = dict(app.running)

    async def until_told(topic: str, key: bytes) -> int:
        """By the broker's own clock, so that what the test itself takes to look is not counted."""
        await make_topics(kafka, [topic])
        await produce(kafka, topic, [(key, b"1")])
        inputs.add(topic)

        async def told() -> bool:
            return key in last_values(await read_all(kafka, f"{role}.out"))

        await eventually(told, 20, what="the new topic's record")
        written = next(record for record in await read_all(kafka, f"{role}.out") if record.key == key)
        return int(written.timestamp - (await read_all(kafka, topic))[0].timestamp)

    # Once is enough, as in `test_many_topics`: a machine that is busy elsewhere may hold one of them up.
    taken = [await until_told(f"{role}.new{n}", b"n%d" % n) for n in range(3)]
    assert min(taken) <= 2000, taken
    assert app.running == lanes


@pytest.mark.kafka
async def test_a_topic_that_is_not_there_yet_holds_nothing_up(
    kafka: Kafka, role: str, run: Callable[..., Awaitable[LaneApp]]
) -> None:
    await produce(kafka, f"{role}.in0", [(b"n", b"1")])
    await run({f"{role}.in0", f"{role}.late"})

    async def told() -> bool:
        return last_values(await read_all(kafka, f"{role}.out")) == {b"n": 1}

    await eventually(told, 20, what="the other topic's record")
    await make_topics(kafka, [f"{role}.late"])
    await produce(kafka, f"{role}.late", [(b"n", b"1")])

    async def both() -> bool:
        return last_values(await read_all(kafka, f"{role}.out")) == {b"n": 2}

    await eventually(both, 20, what="the late topic's record")


@pytest.mark.kafka
async def test_a_role_without_any_input_yet_runs_stops_and_reads_the_first_one_that_comes(
    kafka: Kafka, role: str, run: Callable[..., Awaitable[LaneApp]]
) -> None:
    inputs: set[str] = {f"{role}.none"}
    app = await run(inputs)
    inputs.clear()

    async def moving() -> bool:
        return len(app.running) == LANES and all(lane.frontier.moment for lane in app.running.values())

    await eventually(moving, 60, what="the frontier of lanes that have nothing to read")
    await produce(kafka, f"{role}.in0", [(b"n", b"1")])
    inputs.add(f"{role}.in0")

    async def told() -> bool:
        return last_values(await read_all(kafka, f"{role}.out")) == {b"n": 1}

    await eventually(told, 10, what="the first input's record")


@pytest.mark.kafka
async def test_lanes_move_between_workers_and_nothing_is_applied_twice(
    kafka: Kafka, role: str, run: Callable[..., Awaitable[LaneApp]], tmp_path: Path
) -> None:
    expected: Counter[bytes] = Counter()

    async def more() -> None:
        pairs = [(b"k%d" % (n % 20), b"x") for n in range(1000)]
        await produce(kafka, f"{role}.in0", pairs)
        expected.update(key for key, _ in pairs)

    async def done() -> bool:
        return len(await read_all(kafka, f"{role}.out")) == expected.total()

    first = await run()
    await more()
    await eventually(done, 60, what="the first worker alone")
    second = await run(stores=tmp_path / "second")

    async def shared() -> bool:
        return len(first.running) == 1 and len(second.running) == 1

    await eventually(shared, 60, what="a lane each")
    await more()
    await eventually(done, 60, what="both workers")
    await first.stop()
    await more()
    await eventually(done, 60, what="the second worker alone")
    await check_exact(kafka, role, expected)


@pytest.mark.kafka
async def test_the_frontier_says_how_far_all_input_is_processed(
    kafka: Kafka, role: str, run: Callable[..., Awaitable[LaneApp]]
) -> None:
    app = await run()
    await produce(kafka, f"{role}.in0", [(b"k%d" % n, b"x") for n in range(100)])
    newest = max(record.timestamp for record in await read_all(kafka, f"{role}.in0"))

    async def passed() -> bool:
        lanes = app.running.values()
        return len(lanes) == LANES and all(lane.frontier.moment > newest for lane in lanes)

    await eventually(passed, 60, what="the frontier beyond the newest record")
    assert len(await read_all(kafka, f"{role}.out")) == 100


@pytest.mark.kafka
async def test_a_role_whose_lanes_are_not_as_many_as_the_topics_partitions_says_so(
    kafka: Kafka, role: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"lanes\.{role} has {LANES} partitions and HEADRACE_LANES is 3"):
        await lane_app(kafka, role, 3, tmp_path, {f"{role}.in0"}).start()
    with pytest.raises(ValueError, match="run `headrace topics apply`"):
        await lane_app(kafka, f"{role}x", LANES, tmp_path, {f"{role}.in0"}).start()
    # Else it would take this process for one that hangs, and end it, minutes later.
    watchdogs = {f"{role} watchdog", f"{role}x watchdog"}
    await eventually(lambda: watchdogs.isdisjoint(thread.name for thread in threading.enumerate()))
