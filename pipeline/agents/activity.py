"""What one transaction of intake did for one source, counted (`models.activity`)."""

from __future__ import annotations

from pipeline.models.activity import Activity
from pipeline.models.control import Source
from pipeline.stream.reader import Record

__all__ = ["ACTIVITY", "KEY_HEADER", "Tally"]

ACTIVITY = "sources.activity"
#: Set by the gateway: the id of the secret key that a record came with.
KEY_HEADER = "headrace_key"


class Tally:
    """For the records of one raw topic."""

    __slots__ = ("_accepted", "_accepted_last", "_dropped", "_keys", "_known", "_last", "_rejected", "_topic")

    def __init__(self, topic: str, source: Source | None) -> None:
        self._topic = topic
        #: Ids that count as keys; the header is a producer's claim, and may hold anything.
        self._known = {key.id.encode(): key.id for key in source.keys} if source is not None else {}
        self._last = 0
        self._accepted = 0
        self._accepted_last = 0
        self._rejected: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self._keys: dict[str, int] = {}

    def see(self, record: Record) -> None:
        """Any record, before it is judged."""
        moment = record.timestamp
        if moment > self._last:
            self._last = moment
        if self._known:
            for name, content in record.headers:
                if name == KEY_HEADER and content in self._known:
                    key = self._known[content]
                    self._keys[key] = max(moment, self._keys.get(key, 0))

    def accept(self, record: Record, events: int = 1) -> None:
        """It became so many events."""
        self._accepted += events
        if record.timestamp > self._accepted_last:
            self._accepted_last = record.timestamp

    def reject(self, reason: str) -> None:
        """It went to `rejected`."""
        self._rejected[reason] = self._rejected.get(reason, 0) + 1

    def drop(self, why: str) -> None:
        """Nothing of it is kept."""
        self._dropped[why] = self._dropped.get(why, 0) + 1

    def record(self) -> tuple[bytes, bytes]:
        """Key and value for `sources.activity`."""
        _, partner, source = self._topic.split(".", 2)
        delta = Activity(
            partner=partner,
            source=source,
            accepted=self._accepted,
            rejected=self._rejected,
            dropped=self._dropped,
            last=self._last,
            accepted_last=self._accepted_last or None,
            keys=self._keys,
        )
        return f"{partner}.{source}".encode(), delta.to_json()
