"""Records that go to a tool in one request: gathered for a moment, sent together, each with an answer of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Gatherer"]

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")


class _Waiting(NamedTuple, Generic[ItemT, AnswerT]):
    item: ItemT
    size: int
    answer: asyncio.Future[AnswerT]


class Gatherer(Generic[ItemT, AnswerT]):
    """Calls ``send`` with up to ``most`` items of up to ``most_bytes`` together, ``in_flight`` calls at one time.

    Items go when there are enough, or when the first has waited ``linger_s``. ``send`` gives an answer for each, in
    order; what it raises is raised to all who wait for it.
    """

    def __init__(
        self,
        send: Callable[[Sequence[ItemT]], Awaitable[Sequence[AnswerT]]],
        *,
        most: int,
        most_bytes: int,
        linger_s: float,
        in_flight: int,
    ) -> None:
        self._send = send
        self._most = most
        self._most_bytes = most_bytes
        self._linger = linger_s
        self._slots = asyncio.Semaphore(in_flight)
        self._waiting: list[_Waiting[ItemT, AnswerT]] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(self, item: ItemT, size: int) -> AnswerT:
        """Send ``item``, of ``size`` bytes, with others. Raises what ``send`` raises. Cancelled, it is not sent if it
        still waits."""
        if self._waiting and self._bytes + size > self._most_bytes:
            self._flush()
        loop = asyncio.get_running_loop()
        waiting: _Waiting[ItemT, AnswerT] = _Waiting(item, size, loop.create_future())
        self._waiting.append(waiting)
        self._bytes += size
        if len(self._waiting) >= self._most or self._bytes >= self._most_bytes:
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(self._linger, self._flush)
        return await waiting.answer

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting, self._bytes = self._waiting, [], 0
        if batch:
            task = asyncio.create_task(self._carry(batch), name="batch")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, batch: list[_Waiting[ItemT, AnswerT]]) -> None:
        async with self._slots:
            wanted = [waiting for waiting in batch if not waiting.answer.done()]
            if not wanted:
                return
            try:
                answers = await self._send([waiting.item for waiting in wanted])
            except Exception as error:
                for waiting in wanted:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)
                return
            for waiting, answer in zip(wanted, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)
