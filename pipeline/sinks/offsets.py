"""Which records of a partition are done: a watermark for the commit, and the holes behind it."""

from __future__ import annotations

import base64
import binascii
from collections import deque
from collections.abc import Sequence, Set

__all__ = ["MAX_SPAN", "OffsetTracker"]

#: Reading stops when so many offsets lie between the oldest record in hand and the newest.
MAX_SPAN = 8_000
#: What a commit can tell of: 2,668 characters of the 4,096 that Kafka lets it carry. Twice the span, since a
#: restart adopts what its predecessor had read and not committed.
_MAX_BITS = 2 * MAX_SPAN


class OffsetTracker:
    """Records are read in order and finished in any. The watermark is the oldest that is not finished.

    `snapshot` gives what to commit: the watermark, and which later ones are unfinished, so that a restart
    repeats those alone. Offsets may have gaps (transaction markers, retention).
    ``start`` and ``metadata``: what was committed, or the partition's beginning and nothing.
    """

    __slots__ = ("_order", "_pending", "_read", "_resumed", "position")

    def __init__(self, start: int = 0, metadata: str = "") -> None:
        #: Everything before it was read, by us or by whoever committed.
        self.position = start
        self._read = start
        position, pending = _decode(start, metadata)
        if position is not None:
            self.position = position
        self._order: deque[int] = deque(pending)
        self._pending: set[int] = set(pending)
        self._resumed: deque[int] = deque(pending)

    @property
    def watermark(self) -> int:
        """The oldest offset that is not done, or the position when all are."""
        while self._order and self._order[0] not in self._pending:
            self._order.popleft()
        return self._order[0] if self._order else self.position

    @property
    def span(self) -> int:
        """Offsets from the watermark to the next to be read. What a predecessor had read counts once it is read
        again: else the record that holds the watermark could never be."""
        return max(self._read - self.watermark, 0)

    def is_done(self, offset: int) -> bool:
        """Whether the record is known to be finished; unread ones are not."""
        return offset < self.position and offset not in self._pending

    def read(self, offset: int) -> bool:
        """Take note of the next record; True when it is to be processed, False when it is done already."""
        if offset < self._read:
            return False
        self._read = offset + 1
        while self._resumed and self._resumed[0] <= offset:
            missing = self._resumed.popleft()
            if missing < offset:
                # Unfinished before the restart, and gone from the log since: retention took it.
                self._pending.discard(missing)
        if offset >= self.position:
            self._take(offset)
        return offset in self._pending

    def adopt(self, offsets: Sequence[int], done: Set[int]) -> None:
        """Before anything is read: of ``offsets``, the partition's next ones without a gap, ``done`` are finished.

        So that this is committed, and a later restart need not find it out again.
        """
        for offset in offsets:
            if offset >= self.position:
                self._take(offset)
                self._resumed.append(offset)
        self._pending -= done

    def done(self, offset: int) -> None:
        """The record, which was read, is finished. Twice does no harm."""
        self._pending.discard(offset)

    def snapshot(self) -> tuple[int, str]:
        """What to commit: the watermark, and the unfinished ones behind it as text."""
        watermark = self.watermark
        end = min(self.position, watermark + _MAX_BITS)
        if watermark == end:
            return watermark, ""
        bits = bytearray((end - watermark + 7) // 8)
        for offset in self._pending:
            at = offset - watermark
            if at < end - watermark:
                bits[at >> 3] |= 1 << (at & 7)
        return watermark, f"{end}:{base64.b64encode(bits).decode()}"

    def _take(self, offset: int) -> None:
        self.position = offset + 1
        self._pending.add(offset)
        self._order.append(offset)


def _decode(start: int, metadata: str) -> tuple[int | None, list[int]]:
    """The position and the pending offsets of a commit; (None, []) where it carries none that fit."""
    position, _, encoded = metadata.partition(":")
    if not position.isascii() or not position.isdigit() or len(position) > 19:
        return None, []
    try:
        bits = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None, []
    end = int(position)
    if not 0 < end - start <= 8 * len(bits) <= end - start + 7:
        return None, []
    return end, [start + at for at in range(end - start) if bits[at >> 3] >> (at & 7) & 1]
