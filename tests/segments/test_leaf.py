"""What single leaves say, at their very edges."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from pipeline.models.segment import Condition
from pipeline.segments.leaf import Leaf, leaf_of
from pipeline.segments.scopes import scopes_of

ONE = scopes_of(("web|Web",))
TWO = scopes_of(("app|Mobile", "web|Web"))
_CONDITION: TypeAdapter[Any] = TypeAdapter(Condition)
DAY = 86_400_000


class Person:
    """Somebody who did this: origin -> (time, id, properties), in any order."""

    def __init__(self, leaf: Leaf, did: dict[str, list[tuple[int, str, dict[str, Any]]]], **traits: Any) -> None:
        self.id = "acme|u|ada"
        self.traits = traits
        kept: dict[str, list[tuple[int, str]]] = {}
        for origin, events in did.items():
            for time, name, properties in events:
                for matcher in leaf.matchers:
                    if matcher.event == properties.get("event", "View"):
                        pair = (time, name) if matcher.make is None else matcher.make(time, name, properties)
                        if pair is not None:
                            kept.setdefault(origin, []).append(pair)
        self.leaves = {leaf.id: {origin: sorted(set(pairs), reverse=True) for origin, pairs in kept.items()}}


def leaf(**written: Any) -> Leaf:
    return leaf_of(_CONDITION.validate_python(written))


def at(*times: int, event: str = "View", **properties: Any) -> list[tuple[int, str, dict[str, Any]]]:
    return [(time, f"{event}-{time}", {"event": event, **properties}) for time in times]


def says(made: Leaf, now: int, *events: tuple[int, str, dict[str, Any]]) -> tuple[bool, int | None]:
    mask, flip = made.truth(Person(made, {"web|Web": list(events)}), ONE, now)
    assert mask in (0, ONE.all)
    return bool(mask), flip


VIEW, BUY = {"event": "View"}, {"event": "Buy"}


def test_restarted_after_exactly_the_pause_and_not_a_millisecond_less() -> None:
    made = leaf(restarted=VIEW, after="10ms", window={"rolling": "5ms"})
    assert says(made, 110, *at(100, 110)) == (True, 116)
    assert says(made, 116, *at(100, 110)) == (False, None)
    assert says(made, 110, *at(101, 110)) == (False, None)
    assert says(made, 110, *at(100, 105, 110)) == (False, None)
    assert says(made, 110, *at(110)) == (False, None)


def test_a_sequence_within_exactly_its_time_and_not_a_millisecond_more() -> None:
    made = leaf(sequence=[VIEW, BUY], within="10ms", window={"rolling": "5ms"})
    assert says(made, 110, *at(100), *at(110, event="Buy")) == (True, 116)
    assert says(made, 111, *at(100), *at(111, event="Buy")) == (False, None)
    # In the same millisecond neither came after the other; and the other way round is no sequence.
    assert says(made, 110, *at(110), *at(110, event="Buy")) == (False, None)
    assert says(made, 110, *at(110), *at(100, event="Buy")) == (False, None)
    # The newest way leaves last.
    assert says(made, 110, *at(100, 106), *at(107, 109, event="Buy")) == (True, 115)
    same = leaf(sequence=[VIEW, VIEW, VIEW], within="10ms")
    assert says(same, 110, *at(100, 105, 110)) == (True, None)
    assert says(same, 110, *at(100, 110)) == (False, None)


def test_what_leaves_together_is_gone_at_once() -> None:
    made = leaf(event="View", count={"op": "=", "value": 1}, window={"calendar": {"days": 1}})
    assert says(made, DAY + 5, *at(DAY + 1, DAY + 2)) == (False, None)
    total = leaf(
        aggregate="sum", property="p", of=VIEW, window={"calendar": {"days": 1}}, **{"is": {"op": "=", "value": 1}}
    )
    assert says(total, DAY + 5, *at(DAY + 1, DAY + 2, p=1)) == (False, None)
    assert says(total, DAY + 5, *at(DAY + 1, p=1)) == (True, 2 * DAY)


def test_sums_are_exact_to_the_cent() -> None:
    made = leaf(aggregate="sum", property="p", of=VIEW, **{"is": {"op": "=", "value": 0.3}})
    assert says(made, 9, *at(1, p=0.1), *at(2, p=0.2)) == (True, None)
    far = leaf(aggregate="sum", property="p", of=VIEW, **{"is": {"op": ">", "value": 0}})
    assert says(far, 9, *at(1, p=-1e20), *at(2, p=1e-10), *at(3, p=1e20)) == (True, None)
    wide = leaf(aggregate="sum", property="p", of=VIEW, **{"is": {"op": "=", "value": 5e-324}})
    assert says(wide, 9, *at(1, p=-1.7e308), *at(2, p=5e-324), *at(3, p=1.7e308)) == (True, None)
    huge = leaf(aggregate="sum", property="p", of=VIEW, **{"is": {"op": ">", "value": 1e16}})
    assert says(huge, 9, *at(1, p=10**16), *at(2, p=1)) == (True, None)


def test_a_day_is_one_day_whatever_the_sources() -> None:
    made = leaf(days=VIEW, count={"op": ">=", "value": 2}, window={"calendar": {"days": 7}})
    mask, _ = made.truth(Person(made, {"web|Web": at(DAY + 1), "app|Mobile": at(DAY + 7)}), TWO, 2 * DAY)
    assert mask == 0
    mask, flip = made.truth(Person(made, {"web|Web": at(DAY + 1), "app|Mobile": at(2 * DAY)}), TWO, 2 * DAY)
    assert TWO.named(mask) == ("*",)
    assert flip == 8 * DAY


@pytest.mark.parametrize("kind", ["min", "max"])
def test_least_and_greatest_follow_what_is_left(kind: str) -> None:
    made = leaf(aggregate=kind, property="p", of=VIEW, window={"rolling": "10ms"}, **{"is": {"op": "=", "value": 5}})
    other = 9 if kind == "max" else 1
    assert says(made, 105, *at(100, p=other), *at(103, p=5)) == (False, 111)
    assert says(made, 111, *at(100, p=other), *at(103, p=5)) == (True, 114)
    assert says(made, 114, *at(100, p=other), *at(103, p=5)) == (False, None)


def test_buckets_of_a_hundred_parts_have_everybody_once_and_a_fair_share() -> None:
    parts = [leaf(bucket={"salt": "x", "from": start, "to": start + 10}) for start in range(0, 100, 10)]
    found = [0] * 10
    for number in range(3000):
        person = Person(parts[0], {})
        person.id = f"acme|u|{number}"
        held = [at for at, part in enumerate(parts) if part.truth(person, ONE, 0)[0]]
        assert len(held) == 1
        found[held[0]] += 1
    assert min(found) > 220


@pytest.mark.parametrize(
    "written",
    [
        {"aggregate": "sum", "property": "p", "of": VIEW, "is": {"value": 1}},
        {"sequence": [VIEW, BUY]},
        {"restarted": VIEW, "after": "1d"},
    ],
)
def test_what_is_kept_of_a_leaf_stays_small_whatever_comes(written: dict[str, Any]) -> None:
    made = leaf(**written)
    longest = max(len(str(pair)) for matcher in made.matchers for pair in [_pair(matcher)])
    assert made.k * longest <= 20_000


def _pair(matcher: Any) -> Any:
    plain = (10**13, "x" * 36)
    return plain if matcher.make is None else matcher.make(*plain, {"p": 1.2345678901234567e-300})
