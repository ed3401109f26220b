"""Gathering: what goes together, what does not, and what each hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pipeline.sinks.gatherer import Gatherer


class Sender:
    """Answers each item with itself, doubled; ``hold`` keeps requests open."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.most = 0
        self.two = asyncio.Event()
        self._now = 0

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        if len(self.batches) >= 2:
            self.two.set()
        self._now += 1
        self.most = max(self.most, self._now)
        await self.open.wait()
        self._now -= 1
        return [item * 2 for item in items]


def gatherer(
    sender: Sender, *, most: int = 3, most_bytes: int = 100, linger_s: float = 0.01, in_flight: int = 2
) -> Gatherer[int, int]:
    return Gatherer(sender, most=most, most_bytes=most_bytes, linger_s=linger_s, in_flight=in_flight)


async def test_as_many_as_may_go_together_do_and_each_hears_its_own() -> None:
    sender = Sender()
    made = gatherer(sender, linger_s=60)
    assert await asyncio.gather(*(made.add(n, 1) for n in range(6))) == [0, 2, 4, 6, 8, 10]
    assert sender.batches == [[0, 1, 2], [3, 4, 5]]


async def test_bytes_bound_a_batch_too() -> None:
    sender = Sender()
    made = gatherer(sender, most=100)
    await asyncio.gather(*(made.add(n, 60) for n in range(3)))
    assert sender.batches == [[0], [1], [2]]


async def test_one_alone_waits_no_longer_than_it_may() -> None:
    sender = Sender()
    assert await asyncio.wait_for(gatherer(sender).add(4, 1), 10) == 8


async def test_no_more_requests_are_open_than_may_be() -> None:
    sender = Sender()
    sender.open.clear()
    made = gatherer(sender, most=1, in_flight=2)
    tasks = [asyncio.create_task(made.add(n, 1)) for n in range(5)]
    await asyncio.wait_for(sender.two.wait(), 10)
    sender.open.set()
    await asyncio.gather(*tasks)
    assert sender.most == 2


async def test_what_sending_raises_reaches_all_of_the_batch() -> None:
    async def fail(items: Sequence[int]) -> list[int]:
        raise OSError("gone")

    made: Gatherer[int, int] = Gatherer(fail, most=2, most_bytes=9, linger_s=60, in_flight=1)
    found = await asyncio.gather(made.add(1, 1), made.add(2, 1), return_exceptions=True)
    assert [str(error) for error in found] == ["gone", "gone"]


async def test_who_gave_up_waiting_is_not_sent() -> None:
    sender = Sender()
    made = gatherer(sender, most=2, linger_s=60)
    first = asyncio.create_task(made.add(1, 1))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await made.add(2, 1) == 4
    assert sender.batches == [[2]]
