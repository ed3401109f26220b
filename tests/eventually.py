"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["eventually"]

T = TypeVar("T")


async def eventually(
    condition: Callable[[], Awaitable[T] | T], timeout: float = 30.0, *, what: str = "", every: float = 0.05
) -> T:
    """The first truthy value of ``condition`` (sync or async), asked every ``every`` seconds.

    Fails the test after ``timeout`` seconds, with the last value seen. An AssertionError inside the condition
    counts as "not yet", so it may hold plain asserts.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            value = condition()
            seen = await value if inspect.isawaitable(value) else value
            if seen:
                return seen
            last: object = seen
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or condition!r}; last seen: {last!r}")
        await asyncio.sleep(every)
