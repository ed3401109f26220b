"""The order of one customer's records while some of them wait in retry topics. Pure.

Every record keeps the offset it had in the dispatch topic, its *origin*: that is its place in the order,
wherever it stands. The record with the smallest origin is the head; only the head may be sent. While the head
waits in a retry topic, the others are moved behind it, so that they fill no window that other customers need.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, TypeVar

from pipeline.models.base import Millis

__all__ = ["Item", "KeyQueue"]

T = TypeVar("T")
_ORIGIN = attrgetter("origin")


@dataclass(slots=True, eq=False)
class Item(Generic[T]):
    """A record that is not finished. ``tier``: the retry topic it stands in, None for the dispatch topic.

    ``hop``: how often it was moved; of two copies the one with the greater hop stands, the other is a remainder
    of a crash. ``due``: not before this moment. ``loaded``: the record once it was read, None before. ``offset``: where
    it stands in its topic, -1 where that is not known.
    """

    origin: int
    tier: str | None
    hop: int
    due: Millis
    loaded: T | None = None
    offset: int = -1


class KeyQueue(Generic[T]):
    """The unfinished records of one customer that the lane knows of, in the order of their origins."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: list[Item[T]] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item[T]]:
        return iter(self._items)

    @property
    def head(self) -> Item[T]:
        """The one that is next. Raises IndexError when there is none."""
        return self._items[0]

    def find(self, origin: int) -> Item[T] | None:
        """The record of that origin."""
        at = bisect_left(self._items, origin, key=_ORIGIN)
        return self._items[at] if at < len(self._items) and self._items[at].origin == origin else None

    def add(self, item: Item[T]) -> None:
        """Put a record in its place."""
        insort(self._items, item, key=_ORIGIN)

    def remove(self, item: Item[T]) -> None:
        """Take a finished record out. Raises ValueError when it is not in."""
        self._items.remove(item)

    def stragglers(self) -> list[Item[T]]:
        """Those to be moved behind the head: read already, while the head waits in a retry topic and either is
        unread there (then it lies behind them) or lies in another topic than they.

        None while the head stands in the dispatch topic: its turn is now.
        """
        head = self.head
        if head.tier is None:
            return []
        return [
            item
            for item in self._items[1:]
            if item.loaded is not None and (head.loaded is None or item.tier != head.tier)
        ]

    def waiting(self) -> list[Item[T]]:
        """Those read from the dispatch topic that wait behind the head."""
        return [item for item in self._items[1:] if item.loaded is not None and item.tier is None]
