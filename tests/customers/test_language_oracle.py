"""Every leaf of the language in random definitions and logs, against an oracle that shares no code (case 10)."""

from __future__ import annotations

import os
from typing import Any

import customers_oracle as oracle
import pytest
from customers_world import NAMES, PLACES, count_ops, filters, leaves, memberships, numbered, plain, program, properties
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_world import World, steps

from pipeline.customers.apply import apply_event
from pipeline.customers.evaluate import advance, evaluate
from pipeline.customers.record import Record

#: 500 with `make test`; `make soak` asks for 20,000.
EXAMPLES = int(os.environ.get("ORACLE_EXAMPLES", "500"))
quiet: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
#: 2023-09-01 in UTC: two days before Santiago has no midnight.
BASE = 1_693_526_400_000
#: A step of the small world's clock: a millisecond, or seven hours.
UNITS = [1, 7 * 3_600_000]
ZONES = ["UTC", "Europe/Berlin", "America/Santiago", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia"]

calendars = st.fixed_dictionaries(
    {"calendar": st.fixed_dictionaries({"days": st.integers(1, 6), "zone": st.sampled_from(ZONES)})}
)
days = st.integers(1, 12).map(lambda day: f"2023-09-{day:02}")
betweens = st.one_of(
    st.fixed_dictionaries({"from": days, "zone": st.sampled_from(ZONES)}),
    st.fixed_dictionaries({"to": days, "zone": st.sampled_from(ZONES)}),
    st.tuples(days, days, st.sampled_from(ZONES)).map(lambda x: {"from": min(x[:2]), "to": max(x[:2]), "zone": x[2]}),
).map(lambda between: {"between": between})
rollings = st.sampled_from(["1ms", "5ms", "20ms", "1s", "1d", "35h", "4d"]).map(lambda length: {"rolling": length})
bounded = st.one_of(rollings, calendars, betweens)
windows = st.one_of(bounded, st.just({}))
dids = st.fixed_dictionaries(
    {"event": st.sampled_from(NAMES)},
    optional={
        "where": st.lists(filters, max_size=1),
        "source": st.sampled_from(["web", "app"]),
        "channel": st.sampled_from(["Web", "Mobile"]),
    },
)
numbers = st.sampled_from([0, 1, 2.5, 3.5, -1])
compares = st.one_of(
    st.fixed_dictionaries({"op": st.sampled_from([">=", ">", "=", "<=", "<"]), "value": numbers}),
    st.tuples(numbers, numbers).map(lambda x: {"op": "between", "value": min(x), "to": max(x)}),
)
casts = st.one_of(
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["equals", ">", "<="]),
            "value": st.sampled_from([1, 2.5, 41]),
            "cast": st.just("number"),
        }
    ),
    st.fixed_dictionaries(
        {"op": st.sampled_from(["equals", "contains"]), "value": st.sampled_from(["1", "a"]), "cast": st.just("text")}
    ),
    st.fixed_dictionaries(
        {"op": st.sampled_from([">=", "<"]), "value": st.just("2023-09-03"), "cast": st.just("date")}
    ),
    st.fixed_dictionaries({"value": st.booleans(), "cast": st.just("boolean")}),
)
tests = st.one_of(filters.map(lambda test: {k: v for k, v in test.items() if k != "property"}), casts)
KINDS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "count": st.tuples(leaves, windows).map(lambda x: x[0] | {"window": x[1]}),
    "cast": st.tuples(leaves, casts).map(lambda x: x[0] | {"where": [{"property": "p"} | x[1]]}),
    "when": st.tuples(st.sampled_from(["first", "last"]), dids, st.sampled_from(["within", "before"]), bounded)
    .filter(lambda x: x[2] == "within" or "from" in x[3].get("between", {"from": None}))
    .map(lambda x: {x[0]: x[1], x[2]: x[3]}),
    "aggregate": st.fixed_dictionaries(
        {
            "aggregate": st.sampled_from(["sum", "min", "max"]),
            "property": st.just("p"),
            "of": dids,
            "is": compares,
            "window": windows,
        },
        optional={"cast": st.just("number")},
    ),
    "days": st.fixed_dictionaries({"days": dids, "window": calendars}, optional={"count": count_ops}),
    "sequence": st.fixed_dictionaries(
        {"sequence": st.lists(dids, min_size=2, max_size=3), "window": windows},
        optional={"within": st.sampled_from(["1ms", "5ms", "7h", "35h"])},
    ),
    "restarted": st.fixed_dictionaries(
        {"restarted": dids, "after": st.sampled_from(["1ms", "5ms", "7h", "35h"]), "window": windows}
    ),
    "trait": st.tuples(st.sampled_from(["plan", "age", "since"]), tests).map(lambda x: {"trait": x[0]} | x[1]),
    "bucket": st.tuples(st.integers(0, 60), st.integers(1, 40)).map(
        lambda x: {"bucket": {"salt": "half", "from": x[0], "to": x[0] + x[1]}}
    ),
    "member": st.integers(0, 9).map(lambda number: {"segment": number}),
}
every_leaf = st.one_of(*KINDS.values())
conditions = st.recursive(
    every_leaf,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=5,
)


def named(condition: Any, before: int) -> Any:
    """With segments by name, each one of the ``before`` that stand before it."""
    if isinstance(condition, list):
        return [named(each, before) for each in condition]
    if not isinstance(condition, dict):
        return condition
    if isinstance(condition.get("segment"), int):
        return {"segment": f"s{condition['segment'] % before}"} if before else {"event": "View"}
    return {key: named(value, before) for key, value in condition.items()}


definitions = st.lists(conditions, min_size=1, max_size=4).map(
    lambda found: {f"s{at}": named(condition, at) for at, condition in enumerate(found)}
)
rows = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(PLACES), st.integers(0, 40), properties), min_size=1, max_size=12
)


@settings(max_examples=EXAMPLES, **quiet)
@given(definitions, rows, steps, st.booleans(), st.sampled_from(UNITS))
def test_memberships_and_counts_of_every_leaf_equal_the_oracle_after_every_step(
    definition: Any, found: Any, sequence: Any, full: bool, unit: int
) -> None:
    world = World(definition, numbered(found, BASE, unit), full, BASE, unit)
    for action, argument in sequence:
        getattr(world, action)(argument)
        world.check()


@settings(max_examples=EXAMPLES, **quiet)
@given(definitions, rows, st.sampled_from(UNITS))
def test_nothing_changes_before_the_deadline_of_any_leaf(definition: Any, found: Any, unit: int) -> None:
    compiled, log = program(**definition), numbered(found, BASE, unit)
    record = Record("acme|a|1", "acme", BASE)
    now = BASE + 40 * unit
    for happening in log:
        apply_event(record, happening, compiled)
    evaluate(record, compiled, now, "event", full=True)
    events = [plain(happening) for happening in log]
    person = {"id": record.id, "traits": {}}
    for moment in oracle.moments(definition, events):
        if moment < now:
            continue
        if record.deadline is not None and record.deadline <= moment:
            before = record.deadline
            evaluate(record, compiled, moment, "time")
            assert record.deadline is None or record.deadline > before
        assert memberships(record) == oracle.memberships(definition, events, moment, person)
    if record.deadline is not None:
        advance(record, compiled, record.deadline + 400 * 86_400_000)
    assert record.deadline is None


#: One kind of event, mostly with numbers: so that a leaf has something to say.
dense = st.lists(
    st.tuples(
        st.just("View"),
        st.sampled_from(PLACES),
        st.integers(0, 12),
        st.sampled_from([{"p": 1}, {"p": 2.5}, {"p": "1"}, {"p": 0}, {"p": "2023-09-03"}, {"p": "true"}, None]),
    ),
    min_size=1,
    max_size=10,
)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "member"])
def test_a_leaf_alone_equals_the_oracle(kind: str) -> None:
    @settings(max_examples=EXAMPLES // 4, **quiet)
    @given(st.lists(KINDS[kind].map(viewed), min_size=1, max_size=3), dense, steps, st.sampled_from(UNITS))
    def check(found: Any, log: Any, sequence: Any, unit: int) -> None:
        definition = {f"s{at}": leaf for at, leaf in enumerate(found)}
        world = World(definition, numbered(log, BASE, unit), False, BASE, unit)
        for action, argument in sequence:
            getattr(world, action)(argument)
            world.check()

    check()


def viewed(condition: Any) -> Any:
    """About views whatever their properties, but where a cast is the subject."""
    if isinstance(condition, list):
        return [viewed(each) for each in condition]
    if not isinstance(condition, dict):
        return condition
    kept = {key: viewed(value) for key, value in condition.items() if key not in ("source", "channel")}
    if "event" in kept:
        kept["event"] = "View"
        kept["where"] = [test for test in kept.get("where", []) if "cast" in test]
    return kept


#: Each over in another moment, so that much has passed when nobody looked for a while.
short = st.tuples(count_ops, st.sampled_from(["1ms", "5ms", "20ms", "35ms"])).map(
    lambda x: {"event": "View", "count": x[0], "window": {"rolling": x[1]}}
)


@settings(max_examples=EXAMPLES, **quiet)
@given(st.sampled_from(["all", "any"]), st.lists(short, min_size=2, max_size=3), dense, steps)
def test_a_segment_made_of_segments_follows_them_through_any_time(
    how: str, found: Any, log: Any, sequence: Any
) -> None:
    """Also when several of their moments have passed since anybody looked."""
    definition = {f"s{at}": condition for at, condition in enumerate(found)}
    definition |= {"made": {how: [{"segment": name} for name in definition]}, "same": {"segment": "made"}}
    definition |= {"other": {"not": {"segment": "same"}}}
    world = World(definition, numbered(log, BASE, 1), False, BASE, 1)
    for action, argument in sequence:
        getattr(world, action)(argument)
        world.check()
