"""Ids for messages that bring none, so that a redelivery is the same message, and two equal messages are two.

A message gets the next number. What was committed last is remembered with how the broker would deliver it again
(`mark`), as the feed's position, in one transaction with the message: whatever a lost acknowledgement brings back is
among the last that the broker may have open with us, so that many are enough.
"""

from __future__ import annotations

import secrets
from collections import deque
from typing import Any

__all__ = ["Ledger"]


class Ledger:
    """``position``: as it was committed, or None. ``size``: how many messages may be unacknowledged at a time."""

    def __init__(self, position: Any, size: int) -> None:
        known = position if isinstance(position, dict) else {}
        self._name: str = known.get("name") or secrets.token_hex(4)
        self._next: int = known.get("next", 0)
        self._recent: deque[tuple[str, int]] = deque(((mark, n) for mark, n in known.get("recent", ())), maxlen=size)
        #: Numbers that came again on this connection.
        self._again: set[int] = set()

    def id(self, mark: str, again: bool) -> str:
        """The id of a message. ``again``: the broker says that it may have been delivered before."""
        if again:
            # The newest first: brokers use a mark again. Each once: of two equal ones that come again, one is each.
            for entry in reversed(self._recent):
                if entry[0] == mark and entry[1] not in self._again:
                    self._again.add(entry[1])
                    self._recent.remove(entry)
                    self._recent.append(entry)
                    return self._of(entry[1])
        number, self._next = self._next, self._next + 1
        self._recent.append((mark, number))
        return self._of(number)

    def forget(self) -> None:
        """The broker has forgotten the session: what it numbers from now on is new."""
        self._recent.clear()

    def position(self) -> Any:
        """What to commit with the messages that got their ids so far."""
        return {"name": self._name, "next": self._next, "recent": [list(entry) for entry in self._recent]}

    def _of(self, number: int) -> str:
        return f"{self._name}-{number}"
