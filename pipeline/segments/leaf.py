"""The leaves of a condition, compiled: what is kept of a customer's events, and what it says at a moment.

State of a leaf (kept by the customer's record): origin ``<source>|<channel>`` -> (event time, text) pairs, newest
first, at most k. It is a set, never a counter: replays, duplicates, late events and merges are all "top k of the
union". Pairs of one source are one event when time and text are equal; pairs of different sources never are. The text
is the message id, with what else is needed of the event before it: the step of a sequence, the number of an aggregate;
days keep the first instant of the day and no text. ``first`` keeps the oldest pair in place of the newest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.models.segment import (
    MAX_KEPT,
    AggregateLeaf,
    BucketLeaf,
    Cast,
    Compare,
    Condition,
    Count,
    CountLeaf,
    DaysLeaf,
    Did,
    Filter,
    FirstLeaf,
    LastLeaf,
    RestartLeaf,
    SequenceLeaf,
    TraitLeaf,
)
from pipeline.models.trait import Computation
from pipeline.models.window import duration_ms
from pipeline.segments.filters import Predicate, caster, compile_filters, getter
from pipeline.segments.meaning import UNLIMITED, bounds, kept_id, leaf_id
from pipeline.segments.scopes import Scopes
from pipeline.segments.spans import Span, day_of, day_start, span_of

if TYPE_CHECKING:
    from pipeline.segments.compile import CompiledSegment
    from pipeline.segments.computed import CompiledTrait

__all__ = ["EXACT", "Buckets", "Kept", "Leaf", "Matcher", "Pair", "Person", "leaf_of", "number_of"]

#: (event time in ms, text)
Pair = tuple[int, str]
#: Origin -> its pairs, newest first.
Buckets = dict[str, list[Pair]]
#: Time, message id, properties of an event that matches -> the pair to keep, None: nothing of it counts.
Make = Callable[[int, str, dict[str, Any] | None], Pair | None]


class Person(Protocol):
    """What is looked at of a customer."""

    id: str
    traits: dict[str, Any]

    @property
    def leaves(self) -> Mapping[str, Buckets]: ...


class Matcher:
    """Events that a leaf keeps a pair of: by name, source, channel (None: any) and properties.

    ``make``: the pair; None: the event's time and message id.
    """

    __slots__ = ("channel", "event", "leaf", "make", "matches", "source", "where")

    def __init__(self, leaf: Leaf, did: Did, make: Make | None = None) -> None:
        self.leaf = leaf
        self.event = did.event
        self.source = did.source
        self.channel = did.channel
        self.where = did.where
        self.matches: Predicate = compile_filters(did.where)
        self.make = make


class Leaf:
    """One leaf. Identical leaves of different segments are one `Leaf`.

    ``matchers``: the events it keeps, `k` pairs of an origin, the newest or (``oldest``) the oldest. ``on_nothing``: it
    holds for a customer without any. ``trait``: the trait it looks at. ``segments``: those that use it, and the
    computed traits that do.
    """

    __slots__ = ("id", "k", "matchers", "oldest", "on_nothing", "segments", "span", "trait")

    def __init__(self, identity: str, span: Span, k: int) -> None:
        self.id = identity
        self.span = span
        self.k = k
        self.oldest = False
        self.on_nothing = False
        self.trait: str | None = None
        self.matchers: list[Matcher] = []
        self.segments: list[CompiledSegment | CompiledTrait] = []

    def needs(self, now: int) -> int | None:
        """The earliest event time that says anything at ``now`` (ms); None: all that ever happened does."""
        return self.span.start(now)

    def truth(self, person: Person, scopes: Scopes, now: int) -> tuple[int, int | None]:
        """Mask of the scopes where it holds at ``now``, and the first later moment when time alone alters it.

        The moment is exact (None: never): until then the mask stays unless an event arrives.
        """
        buckets = person.leaves.get(self.id)
        if not buckets:
            return (scopes.all if self.on_nothing else 0), None
        if len(buckets) == 1:
            for origin, pairs in buckets.items():
                here = scopes.of[origin]
                held, flip = self._held(pairs, now)
                mask = here if held else 0
                return (mask | scopes.all & ~here if self.on_nothing else mask), flip
        mask = 0
        rest = scopes.all
        first: int | None = None
        for here, sources in scopes.groups(tuple(buckets)):
            held, flip = self._held(self._union(buckets, sources), now)
            rest &= ~here
            if held:
                mask |= here
            if flip is not None and (first is None or flip < first):
                first = flip
        return (mask | rest if self.on_nothing else mask), first

    def message_id(self, text: str) -> str | None:
        """Of the event that a pair with this text stands for (a long id as a hash); None where a pair is a day."""
        return text

    def _held(self, pairs: list[Pair], now: int) -> tuple[bool, int | None]:
        """Whether it holds for these pairs (newest first, not none), and when time alone alters that."""
        raise NotImplementedError

    def _union(self, buckets: Buckets, sources: tuple[tuple[str, ...], ...]) -> list[Pair]:
        """The pairs of these origins, newest first; ``sources``: origins grouped by source."""
        if len(sources) == 1 and len(sources[0]) == 1:
            return buckets[sources[0][0]]
        pairs: list[Pair] = []
        for origins in sources:
            if len(origins) == 1:
                pairs += buckets[origins[0]]
            else:
                pairs += set().union(*(buckets[origin] for origin in origins))
        pairs.sort(reverse=True)
        return pairs


def _inside(span: Span, make: Make | None = None, *, low: bool = True) -> Make | None:
    """``make``, for events between the bounds that do not move: those outside of them can be left out for ever."""
    first = span.low if low else None
    last = span.high
    if first is None and last is None:
        return make

    def bounded(time: int, message_id: str, properties: dict[str, Any] | None) -> Pair | None:
        if (first is not None and time < first) or (last is not None and time >= last):
            return None
        return (time, message_id) if make is None else make(time, message_id, properties)

    return bounded


class _Counted(Leaf):
    """How often: ``least`` to ``most`` pairs in the window, inclusive.

    As many pairs are kept as tell every count in the interval from every one outside.
    """

    __slots__ = ("least", "most")

    def __init__(self, leaf: CountLeaf) -> None:
        span = span_of(leaf.window)
        self._between(leaf_id(leaf), span, leaf.count)
        self.matchers = [Matcher(self, leaf, _inside(span))]

    def _between(self, identity: str, span: Span, count: Count) -> None:
        self.least, self.most = bounds(count)
        super().__init__(identity, span, self.least if self.most == UNLIMITED else self.most + 1)
        self.on_nothing = self.least == 0 <= self.most

    def _held(self, pairs: list[Pair], now: int) -> tuple[bool, int | None]:
        count = len(pairs)
        span = self.span
        start = span.start(now)
        if start is None:
            return self.least <= count <= self.most, None
        if pairs[-1][0] < start:
            count = 0 if pairs[0][0] < start else bisect_right(pairs, -start, key=_age)
        least = self.least
        if count > self.most:
            last = span.end(pairs[self.most][0])
            # Where they leave together, the count falls through the interval.
            through = least and span.end(pairs[least - 1][0]) == last
            return False, None if through else last
        if count >= least:
            return True, span.end(pairs[least - 1][0]) if least else None
        return False, None


def _age(pair: Pair) -> int:
    return -pair[0]


class _Days(_Counted):
    """On how many days; a pair is a day, and the same day from two sources is one."""

    __slots__ = ()

    def __init__(self, leaf: DaysLeaf) -> None:
        span = span_of(leaf.window)
        zone = span.zone
        self._between(leaf_id(leaf), span, leaf.count)
        self.matchers = [Matcher(self, leaf.days, _day(zone))]

    def message_id(self, text: str) -> str | None:
        return None

    def _union(self, buckets: Buckets, sources: tuple[tuple[str, ...], ...]) -> list[Pair]:
        return sorted({pair for origins in sources for origin in origins for pair in buckets[origin]}, reverse=True)


class _When(Leaf):
    """When it was first or last performed: within the window, or before it."""

    __slots__ = ("before",)

    def __init__(self, leaf: FirstLeaf | LastLeaf) -> None:
        window = leaf.within or leaf.before
        assert window is not None
        super().__init__(leaf_id(leaf), span_of(window), 1)
        self.oldest = isinstance(leaf, FirstLeaf)
        self.before = leaf.before is not None
        self.matchers = [Matcher(self, leaf.first if isinstance(leaf, FirstLeaf) else leaf.last)]

    def needs(self, now: int) -> int | None:
        # What the first was, and whether there was one before, all of the past says.
        return None if self.oldest or self.before else self.span.start(now)

    def _held(self, pairs: list[Pair], now: int) -> tuple[bool, int | None]:
        time = pairs[-1][0] if self.oldest else pairs[0][0]
        span = self.span
        start = span.start(now)
        if start is not None and time < start:
            return self.before, None
        if span.high is not None and time >= span.high:
            return False, None
        return not self.before, span.end(time)


#: Digits enough for any sum of `MAX_KEPT` numbers of JSON (from 5e-324 to 1.8e308), exactly.
EXACT = Context(prec=700)


class _Aggregated(Leaf):
    """Sum, least or greatest of a number; exact, in decimal."""

    __slots__ = ("kind", "test")

    def __init__(self, leaf: AggregateLeaf) -> None:
        span = span_of(leaf.window)
        super().__init__(leaf_id(leaf), span, MAX_KEPT)
        self.kind = leaf.aggregate
        self.test = _compare(leaf.is_)
        self.on_nothing = self.kind == "sum" and self.test(Decimal(0))
        self.matchers = [Matcher(self, leaf.of, _inside(span, _number(leaf.property, leaf.cast)))]

    def message_id(self, text: str) -> str | None:
        return text.partition(" ")[2]

    def _held(self, pairs: list[Pair], now: int) -> tuple[bool, int | None]:
        start = self.span.start(now)
        inside = pairs if start is None else [pair for pair in pairs if pair[0] >= start]
        # What each of them leaves when all that are older have gone.
        totals: list[Decimal] = []
        for _, text in inside:
            value = number_of(text)
            if not totals:
                totals.append(value)
            elif self.kind == "sum":
                totals.append(EXACT.add(totals[-1], value))
            else:
                totals.append(min(totals[-1], value) if self.kind == "min" else max(totals[-1], value))
        held = self.test(totals[-1]) if totals else self.on_nothing
        for at in range(len(inside) - 1, -1, -1):
            end = self.span.end(inside[at][0])
            if end is None:
                break
            if at and self.span.end(inside[at - 1][0]) == end:
                continue  # they leave together
            if (self.test(totals[at - 1]) if at else self.on_nothing) is not held:
                return held, end
        return held, None


def _number(path: str, cast_to: Cast | None) -> Make:
    """Events whose property is a number, it before their id."""
    get = getter(path)
    cast = caster(cast_to)

    def make(time: int, message_id: str, properties: dict[str, Any] | None) -> Pair | None:
        value = cast(get(properties)) if properties else None
        return (time, f"{value!r} {message_id}") if type(value) in (int, float) else None

    return make


def number_of(text: str) -> Decimal:
    """The number of a pair that has one."""
    return Decimal(text[: text.index(" ")])


def _compare(compare: Compare) -> Callable[[Decimal], bool]:
    value, to = Decimal(repr(compare.value)), Decimal(repr(compare.to or 0.0))
    tests: dict[str, Callable[[Decimal], bool]] = {
        ">=": lambda found: found >= value,
        ">": lambda found: found > value,
        "=": lambda found: found == value,
        "<=": lambda found: found <= value,
        "<": lambda found: found < value,
        "between": lambda found: value <= found <= to,
    }
    return tests[compare.op]


class Kept(Leaf):
    """What is kept for a computed trait; what it is worth, `computed.CompiledTrait` says."""

    __slots__ = ("days", "numbered")

    def __init__(self, computation: Computation) -> None:
        span = span_of(computation.window)
        super().__init__(kept_id(computation), span, 1 if computation.compute in ("first", "last") else MAX_KEPT)
        self.oldest = computation.compute == "first"
        self.days = computation.compute == "days"
        self.numbered = computation.property is not None
        make: Make | None = None
        if computation.property is not None:
            make = _number(computation.property, computation.cast)
        elif self.days:
            make = _day(span.zone)
        self.matchers = [Matcher(self, computation.of, _inside(span, make))]

    def message_id(self, text: str) -> str | None:
        if self.days:
            return None
        return text.partition(" ")[2] if self.numbered else text

    def pairs(self, buckets: Buckets) -> list[Pair]:
        """All that is kept, newest first; an event of one source is one, whatever channels it came by."""
        sources: dict[str, tuple[str, ...]] = {}
        for origin in buckets:
            source = "" if self.days else origin.partition("|")[0]
            sources[source] = (*sources.get(source, ()), origin)
        return self._union(buckets, tuple(sources.values()))


def _day(zone: str) -> Make:
    return lambda time, _, __: (day_start(day_of(time, zone), zone), "")


class _Sequence(Leaf):
    """Steps one after the other, each in a later millisecond; the last in the window."""

    __slots__ = ("steps", "within")

    def __init__(self, leaf: SequenceLeaf) -> None:
        span = span_of(leaf.window)
        super().__init__(leaf_id(leaf), span, MAX_KEPT)
        self.steps = len(leaf.sequence)
        self.within = UNLIMITED if leaf.within is None else duration_ms(leaf.within)
        self.matchers = [
            Matcher(self, did, _inside(span, _step(at), low=False)) for at, did in enumerate(leaf.sequence)
        ]

    def message_id(self, text: str) -> str | None:
        return text.partition(" ")[2]

    def needs(self, now: int) -> int | None:
        start = self.span.start(now)
        return None if start is None or self.within == UNLIMITED else start - self.within

    def _held(self, pairs: list[Pair], now: int) -> tuple[bool, int | None]:
        times: list[list[int]] = [[] for _ in range(self.steps)]
        for time, text in reversed(pairs):
            times[int(text[0])].append(time)
        start = self.span.start(now)
        for last in reversed(times[-1]):
            if start is not None and last < start:
                break
            # Of each step the latest that is early enough: no other choice makes the whole shorter.
            time = last
            for step in reversed(times[:-1]):
                at = bisect_right(step, time - 1)
                if not at:
                    break
                time = step[at - 1]
            else:
                if last - time <= self.within:
                    return True, self.span.end(last)
        return False, None


def _step(number: int) -> Make:
    return lambda time, message_id, _: (time, f"{number} {message_id}")


class _Restarted(Leaf):
    """Performed, then not for ``after`` at least, then again, that in the window."""

    __slots__ = ("after",)

    def __init__(self, leaf: RestartLeaf) -> None:
        span = span_of(leaf.window)
        super().__init__(leaf_id(leaf), span, MAX_KEPT)
        self.after = duration_ms(leaf.after)
        self.matchers = [Matcher(self, leaf.restarted, _inside(span, low=False))]

    def needs(self, now: int) -> int | None:
        return None

    def _held(self, pairs: list[Pair], now: int) -> tuple[bool, int | None]:
        start = self.span.start(now)
        for at in range(len(pairs) - 1):
            time = pairs[at][0]
            if start is not None and time < start:
                break
            if time - pairs[at + 1][0] >= self.after:
                return True, self.span.end(time)
        return False, None


class _Trait(Leaf):
    """What is known of the customer, wherever it came from."""

    __slots__ = ("test",)

    def __init__(self, leaf: TraitLeaf) -> None:
        super().__init__(leaf_id(leaf), Span(), 0)
        self.trait = leaf.trait
        self.test = compile_filters([Filter(property=leaf.trait, op=leaf.op, value=leaf.value, cast=leaf.cast)])
        self.on_nothing = self.test(None)

    def needs(self, now: int) -> int | None:
        return now  # traits are taken from every event, whatever segments there are

    def truth(self, person: Person, scopes: Scopes, now: int) -> tuple[int, int | None]:
        return (scopes.all if self.test(person.traits) else 0), None


class _Bucket(Leaf):
    """A random part of the customers."""

    __slots__ = ("high", "low", "salt")

    def __init__(self, leaf: BucketLeaf) -> None:
        super().__init__(leaf_id(leaf), Span(), 0)
        self.salt = leaf.bucket.salt
        self.low, self.high = leaf.bucket.from_, leaf.bucket.to
        #: For some without any state it holds, so all must be looked at.
        self.on_nothing = True

    def needs(self, now: int) -> int | None:
        return now

    def truth(self, person: Person, scopes: Scopes, now: int) -> tuple[int, int | None]:
        digest = blake2b(f"{self.salt}|{person.id}".encode(), digest_size=8).digest()
        percent = int.from_bytes(digest, "big") / 2**64 * 100
        return (scopes.all if self.low <= percent < self.high else 0), None


_KINDS: dict[type[Any], Callable[[Any], Leaf]] = {
    CountLeaf: _Counted,
    DaysLeaf: _Days,
    FirstLeaf: _When,
    LastLeaf: _When,
    AggregateLeaf: _Aggregated,
    SequenceLeaf: _Sequence,
    RestartLeaf: _Restarted,
    TraitLeaf: _Trait,
    BucketLeaf: _Bucket,
}


def leaf_of(leaf: Condition) -> Leaf:
    """The leaf, compiled. Raises TypeError for what is none."""
    made = _KINDS.get(type(leaf))
    if made is None:
        raise TypeError(f"{type(leaf).__name__} is no leaf")
    return made(leaf)
