"""How integrations are doing, on `sinks.state`: since when a tool does nothing but fail, and why it is not called.

A lane's row is written by the process that owns the lane, when it changes; all rows together say how the tool is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from aiokafka import ConsumerRecord

from pipeline.models.base import Millis, dumps
from pipeline.models.delivery import Closed, SinkState
from pipeline.sinks.gate import Pause
from pipeline.stream.follower import Follower, Following
from pipeline.stream.kafka import Kafka

__all__ = ["TOPIC", "SinkBoard", "Vitals", "closed_by", "failing_since", "key_of"]

TOPIC = "sinks.state"
#: That a tool takes what it is told is told again after so long, not each time.
_AGAIN_MS = 60_000


class SinkBoard(Following):
    """All rows, by integration and lane. Use from one event loop."""

    def __init__(self, kafka: Kafka) -> None:
        self._rows: dict[tuple[str, str], dict[int, SinkState]] = {}
        super().__init__(Follower(kafka, [TOPIC], self._apply, name=TOPIC))

    def of(self, partner: str, integration: str) -> dict[int, SinkState]:
        """Lane -> its row."""
        return self._rows.get((partner, integration), {})

    def _apply(self, records: list[ConsumerRecord]) -> None:
        for record in records:
            where = json.loads(record.key)
            rows = self._rows.setdefault((where["partner"], where["integration"]), {})
            if record.value is None:
                rows.pop(where["lane"], None)
            else:
                rows[where["lane"]] = SinkState.model_validate_json(record.value)


class Vitals:
    """What one lane knows of its tool. ``row``: as it was told last."""

    def __init__(self, partner: str, integration: str, lane: int, row: SinkState | None = None) -> None:
        self.row = row or SinkState(partner=partner, integration=integration, lane=lane, at=0)

    def tried(self, good: bool, now: Millis) -> bool:
        """An attempt was answered, or failed; whether the row is another one now."""
        row = self.row
        if good:
            if row.failing_since is None and row.ok_at is not None and now - row.ok_at < _AGAIN_MS:
                return False
            self.row = row.model_copy(update={"failing_since": None, "ok_at": now, "at": now})
            return True
        if row.failing_since is not None:
            return False
        self.row = row.model_copy(update={"failing_since": now, "at": now})
        return True

    def closed(self, closed: Closed | None, now: Millis) -> bool:
        """Why the tool is not called, or that it is; whether the row is another one now."""
        if self.row.closed == closed:
            return False
        self.row = self.row.model_copy(update={"closed": closed, "at": now})
        return True


def key_of(row: SinkState) -> bytes:
    """The row's key."""
    return dumps({"partner": row.partner, "integration": row.integration, "lane": row.lane})


def closed_by(pause: Pause | None) -> Closed | None:
    """A gate's pause as it is told."""
    if pause is None:
        return None
    return Closed(
        reason=pause.reason[:500], since=int(pause.since * 1000), until=int(pause.until * 1000), alert=pause.alert
    )


def failing_since(rows: Iterable[SinkState]) -> Millis | None:
    """Since when a tool has done nothing but fail, whichever lane asked; None: it does not.

    What one lane got through ends what failed before it in all.
    """
    known = list(rows)
    began = [row.failing_since for row in known if row.failing_since is not None]
    if not began:
        return None
    return max([min(began), *(row.ok_at for row in known if row.ok_at is not None)])
