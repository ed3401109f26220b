"""How far mailings are, from `mailings`: the sum over lanes."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import Field

from pipeline.models.base import Model

__all__ = ["MailingState", "Mailings"]


class MailingState(Model):
    """``sent``: members that the tool's topic has; delivery is told by the delivery log."""

    sent: int
    looked_at: int = Field(description="customers whose turn has come, members or not")
    lanes: int = Field(description="that have told something")
    done: bool = Field(description="all customers of all lanes had their turn")


class Mailings:
    """In memory, small."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._rows: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}

    def apply(self, key: bytes, value: bytes | None) -> None:
        """Take a record of the topic."""
        where = orjson.loads(key)
        lanes = self._rows.setdefault((where["partner"], where["mailing"]), {})
        if value is None:
            lanes.pop(where["lane"], None)
        else:
            lanes[where["lane"]] = orjson.loads(value)

    def of(self, partner: str, mailing: str) -> MailingState:
        """How far it is."""
        rows = list(self._rows.get((partner, mailing), {}).values())
        return MailingState(
            sent=sum(row["sent"] for row in rows),
            looked_at=sum(row["looked_at"] for row in rows),
            lanes=len(rows),
            done=len(rows) == self._lanes and all(row["done"] for row in rows),
        )
