"""The control log over a real Kafka: several processes, one truth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from control_topics import make_control_topics
from eventually import eventually

from pipeline.control.log import MAX_BYTES, ControlLog
from pipeline.models.control import Command, Verdict
from pipeline.stream.kafka import Kafka

pytestmark = pytest.mark.kafka


@asynccontextmanager
async def following(kafka: Kafka) -> AsyncIterator[ControlLog]:
    log = ControlLog(kafka)
    await log.start()
    try:
        yield log
    finally:
        await log.stop()


@pytest.fixture
async def pair(kafka: Kafka) -> AsyncIterator[tuple[ControlLog, ControlLog]]:
    await make_control_topics(kafka)
    async with following(kafka) as one, following(kafka) as two:
        yield one, two


def commands(partner: str) -> Callable[..., Command]:
    numbers = iter(range(1000))

    def make(command: str, **fields: Any) -> Command:
        return Command.model_validate(
            {"id": f"{partner}-{next(numbers)}", "command": command, "partner": partner} | fields
        )

    return make


async def test_a_change_acts_in_every_process_within_two_seconds(
    pair: tuple[ControlLog, ControlLog], prefix: str
) -> None:
    one, two = pair
    make = commands(prefix)
    created = await one.submit(make("partner.create", data={"id": prefix, "name": "Acme"}))
    assert (created.status, created.code) == (201, "ok")
    await two.wait_for(created.offset)
    took = []
    for n in range(5):
        data = {"id": f"s{n}", "name": "S", "code": f"s{n}"}
        start = time.perf_counter()
        verdict = await one.submit(make("source.create", data=data))
        await eventually(lambda n=n: (prefix, f"s{n}") in two.state.sources, 2.0, every=0.005)
        took.append(time.perf_counter() - start)
        assert verdict.status == 201
        assert one.state.offset >= verdict.offset, "read back before the answer"
    assert max(took) < 2.0


async def test_of_conflicting_commands_exactly_one_wins_everywhere(
    pair: tuple[ControlLog, ControlLog], prefix: str
) -> None:
    one, two = pair
    make = commands(prefix)
    await one.submit(make("partner.create", data={"id": prefix, "name": "Acme"}))

    async def race(build: Callable[[int], Command]) -> list[Verdict]:
        return await asyncio.gather(*((one, two)[n % 2].submit(build(n)) for n in range(8)))

    codes = await race(lambda n: make("source.create", data={"id": f"s{n}", "name": "S", "code": "wanted"}))
    assert sorted(verdict.code for verdict in codes) == ["duplicate_code"] * 7 + ["ok"]
    edits = await race(lambda n: make("source.edit", entity="online-store", expect=1, data={"description": str(n)}))
    assert sorted(verdict.code for verdict in edits) == ["ok"] + ["stale"] * 7
    last = max(verdict.offset for verdict in edits)
    await asyncio.gather(one.wait_for(last), two.wait_for(last))
    assert one.state.sources[prefix, "online-store"].version == 2
    assert vars(one.state) == vars(two.state)
    winner = next(verdict.entity for verdict in edits if verdict.code == "ok")
    assert winner is not None
    assert two.state.sources[prefix, "online-store"].description == winner["description"]


async def test_a_repeat_from_another_process_gets_the_first_verdict(
    pair: tuple[ControlLog, ControlLog], prefix: str
) -> None:
    one, two = pair
    command = commands(prefix)("partner.create", data={"id": prefix, "name": "Acme"})
    both = await asyncio.gather(one.submit(command), two.submit(command))
    assert both[0] == both[1]
    assert await two.submit(command) == both[0]


async def test_a_process_that_starts_later_reads_the_whole_log(
    pair: tuple[ControlLog, ControlLog], kafka: Kafka, prefix: str
) -> None:
    one, _ = pair
    make = commands(prefix)
    await one.submit(make("partner.create", data={"id": prefix, "name": "Acme"}))
    await one.submit(make("source.create", data={"id": "app", "name": "App", "code": "app"}))
    async with following(kafka) as later:
        await one.wait_for(later.state.offset)
        assert later.state.source_by_key(f"{prefix}.app") is not None
        assert vars(later.state) == vars(one.state)


async def test_garbage_on_the_topic_stops_nobody(pair: tuple[ControlLog, ControlLog], prefix: str) -> None:
    one, two = pair
    async with one._kafka.producer() as producer:
        for value in (b"", None, b"\xff", b"{}", b"[" * 2000, "😀".encode()):
            await producer.send_and_wait("control", value, key=b"\xff", headers=[("submission", b"x"), ("", b"")])
    verdict = await two.submit(commands(prefix)("partner.create", data={"id": prefix, "name": "Acme"}))
    assert verdict.status == 201
    await one.wait_for(verdict.offset)
    assert prefix in one.state.partners
    assert not one.failure.done()


async def test_subscribers_hear_of_every_batch_until_they_leave(
    pair: tuple[ControlLog, ControlLog], prefix: str
) -> None:
    one, _ = pair
    make = commands(prefix)
    heard: list[int] = []

    def broken(_: object) -> None:
        raise ZeroDivisionError

    one.subscribe(broken)
    leave = one.subscribe(lambda state: heard.append(state.offset))
    verdict = await one.submit(make("partner.create", data={"id": prefix, "name": "Acme"}))
    assert heard[-1] >= verdict.offset
    leave()
    leave()
    count = len(heard)
    await one.submit(make("partner.edit", expect=1, data={"sending": True}))
    assert len(heard) == count


async def test_a_command_too_large_is_refused_before_it_is_sent(
    pair: tuple[ControlLog, ControlLog], prefix: str
) -> None:
    command = commands(prefix)("partner.create", data={"id": prefix, "name": "x" * MAX_BYTES})
    with pytest.raises(ValueError, match="at most"):
        await pair[0].submit(command)


async def test_no_answer_in_time_says_that_the_outcome_is_unknown(
    pair: tuple[ControlLog, ControlLog], prefix: str
) -> None:
    one, two = pair
    command = commands(prefix)("partner.create", data={"id": prefix, "name": "Acme"})
    with pytest.raises(TimeoutError, match="same id"):
        await one.submit(command, timeout=0)
    assert (await two.submit(command)).status == 201


async def test_before_start_it_says_what_to_do(kafka: Kafka) -> None:
    with pytest.raises(RuntimeError, match="start"):
        await ControlLog(kafka).wait_for(0)
