"""Computed traits, compiled: what the events that are kept of a customer are worth at a moment."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from pipeline.models.control import Trait
from pipeline.models.window import duration_ms
from pipeline.segments.leaf import EXACT, Kept, Leaf, Pair, Person, number_of
from pipeline.segments.meaning import kept_id

__all__ = ["CompiledTrait", "Value"]

Value = int | float | str


class CompiledTrait:
    """A computed trait, beside the segments of a program: what an event touches, and what time alone changes.

    ``id``: as no segment's can be; ``name``: below `computed`. ``leaves``: the one that it is made of. ``since``: the
    moment (ms) when it went live as it is.
    """

    __slots__ = ("_aged", "_bounds", "_compute", "_leaf", "_worth", "id", "leaves", "name", "since", "version")

    def __init__(self, trait: Trait, leaves: dict[str, Leaf]) -> None:
        """``leaves``: of the program, by id; takes what is not there yet."""
        computation = trait.computation
        self.id = f"trait:{trait.id}"
        self.name = trait.id
        self.version = trait.version
        self.since = trait.since
        self._compute = computation.compute
        self._aged = computation.compute in ("first", "last")
        self._bounds = [duration_ms(b) if isinstance(b, str) else b for b in computation.scores or ()]
        self._worth = _WORTH[computation.compute]
        found = leaves.setdefault(kept_id(computation), Kept(computation))
        assert isinstance(found, Kept)
        self._leaf = found
        self.leaves: list[Leaf] = [found]
        found.segments.append(self)

    def value(self, person: Person, now: int) -> tuple[Value | None, int | None]:
        """What it is at ``now`` (ms), None: nothing; and a later moment before which time alone does not alter it."""
        buckets = person.leaves.get(self._leaf.id)
        if not buckets:
            return None, None
        pairs = self._leaf.pairs(buckets)
        if self._aged:
            pairs = pairs[-1:] if self._leaf.oldest else pairs[:1]
        span = self._leaf.span
        start = span.start(now)
        if start is not None:
            pairs = [pair for pair in pairs if pair[0] >= start]
        if not pairs:
            return None, None
        flip = span.end(pairs[-1][0])
        if not self._aged:
            worth = self._worth(pairs)
            return (1 + bisect_right(self._bounds, worth) if self._bounds else _plain(worth)), flip
        time = pairs[0][0]
        if not self._bounds:
            return _moment(time), flip
        held = [bound for bound in self._bounds if now - time <= bound]
        if held:
            older = time + int(held[0]) + 1
            flip = older if flip is None else min(flip, older)
        return 1 + len(held), flip

    def is_cut(self, person: Person, now: int) -> bool:
        """Whether there may be more in its window than is kept, so that the value may be too small."""
        if self._leaf.k == 1:
            return False
        start = self._leaf.span.start(now)
        buckets = person.leaves.get(self._leaf.id) or {}
        return any(
            len(pairs) >= self._leaf.k and (start is None or pairs[-1][0] >= start) for pairs in buckets.values()
        )


def _moment(time: int) -> str:
    return datetime.fromtimestamp(time / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(worth: Decimal) -> int | float:
    """As JSON has it: what is whole, and held exactly by everybody, without a fraction."""
    if worth == worth.to_integral_value() and abs(worth) < 2**53:
        return int(worth)
    return float(worth)


def _sum(pairs: Sequence[Pair]) -> Decimal:
    total = Decimal(0)
    for _, text in pairs:
        total = EXACT.add(total, number_of(text))
    return total


def _count(pairs: Sequence[Pair]) -> Decimal:
    return Decimal(len(pairs))


_WORTH: dict[str, Callable[[Sequence[Pair]], Decimal]] = {
    "sum": _sum,
    "average": lambda pairs: EXACT.divide(_sum(pairs), Decimal(len(pairs))),
    "min": lambda pairs: min(number_of(text) for _, text in pairs),
    "max": lambda pairs: max(number_of(text) for _, text in pairs),
    "count": _count,
    "days": _count,
    "first": _count,
    "last": _count,
}
