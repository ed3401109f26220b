"""Segments that come late: what was before them is read, by every lane for itself, while all goes on."""

from __future__ import annotations

import random
from collections import defaultdict

import customers_oracle as oracle
import orjson
from customers_world import definitions
from fanout_world import FanoutWorld
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_contacts_oracle import NOW, PLACES, check, define, logs, on_the_wire, say, sent, state_of

LANES = 3


def play(definition, events, rng, change):
    """All of ``events``, some of them again, in any order, lanes restarted now and then; ``change(state, moment)`` at
    some time in between."""
    state = state_of({} if change is define else definition)
    world = FanoutWorld(state, LANES, NOW)
    log = [*events, *(event for event in events if rng.random() < 0.3)]
    rng.shuffle(log)
    when = rng.randint(0, len(log))
    for number, event in enumerate([*log, None]):
        if number == when:
            change(state, definition, NOW - 500)
        if event is not None:
            world.send(oracle.strongest(event), on_the_wire(event))
        while rng.random() < 0.6:
            lane = rng.randrange(LANES)
            if rng.random() < 0.5:
                world.tick_once(lane)
            else:
                world.step(lane, rng.choice(["events", "moves"]), rng.randint(1, 4), forget=rng.random() < 0.2)
    world.settle()
    return world


def check_transitions(world):
    """Nobody enters twice, or leaves without having entered."""
    inside = defaultdict(bool)
    for _, _, value in world.sent["segments.transitions"]:
        change = orjson.loads(value)
        where = change["segment"], change["customer"]
        assert inside[where] is (change["kind"] == "left"), change
        inside[where] = change["kind"] == "entered"


def told(world):
    """The last progress of each segment and lane."""
    rows = {key: orjson.loads(value) for _, key, value in world.sent["segments.progress"]}
    return list(rows.values())


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(definitions, logs, st.randoms(use_true_random=False))
def test_a_segment_that_comes_late_counts_all_that_was_before_it(definition, events, rng):
    world = play(definition, events, rng, define)
    check(world, definition, events)
    check_transitions(world)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(definitions, definitions, logs, st.randoms(use_true_random=False))
def test_a_segment_that_becomes_another_counts_as_if_it_had_always_been(before, after, events, rng):
    definition = {name: after.get(name, condition) for name, condition in before.items()}

    def edit(state, _, moment):
        for name, condition in definition.items():
            say(state, "segment.edit", {"condition": condition}, moment, entity=name, expect=1)

    world = play(before, events, rng, edit)
    check(world, definition, events)
    check_transitions(world)


VIEWED = {"event": "View", "count": {"op": ">=", "value": 2}}
NOT_VIEWED = {"event": "View", "count": {"op": "=", "value": 0}}


def world_of(events, definition):
    state = state_of({})
    world = FanoutWorld(state, LANES, NOW)
    for event in events:
        world.send(oracle.strongest(event), on_the_wire(event))
    world.drain()
    world.tick()
    define(state, definition, NOW - 500)
    return world


def test_nobody_enters_before_the_past_is_read():
    """Else a campaign for those who have not viewed would go to all who have."""
    users = [f"acme|u|{number}" for number in range(12)]
    events = [sent(number, {"user": user}) for number, user in enumerate(users)]
    world = world_of(events, {"never": NOT_VIEWED, "bought": {"event": "Buy", "count": {"op": "=", "value": 0}}})
    # They go on being seen while it is read, and from where they were never seen, so that all segments are looked at.
    for number, user in enumerate(users):
        event = sent(100 + number, {"user": user}, "Buy" if number % 2 else "Other", PLACES[1])
        world.send(user, on_the_wire(event))
    world.settle()
    entered = [orjson.loads(value) for _, _, value in world.sent["segments.transitions"]]
    assert {change["segment"] for change in entered} == {"bought"}
    assert len(entered) == 6
    assert all(row["complete"] and row["back_fill"] == 1 for row in told(world))


def test_nobody_enters_by_a_computed_trait_whose_past_is_not_read():
    """Else all who have bought would enter as those who have not, and leave again."""
    users = [f"acme|u|{number}" for number in range(12)]
    state = state_of({})
    world = FanoutWorld(state, LANES, NOW)
    for number, user in enumerate(users):
        world.send(user, on_the_wire(sent(number, {"user": user}, "Buy" if number % 2 else "View")))
    world.drain()
    world.tick()
    orders = {"id": "orders", "name": "Orders", "computation": {"compute": "count", "of": {"event": "Buy"}}}
    say(state, "trait.create", orders, NOW - 500)
    never = {"not": {"trait": "computed.orders", "op": "exists", "value": True}}
    define(state, {"never": never, "ever": {"trait": "computed.orders", "op": ">=", "value": 1}}, NOW - 500)
    for number, user in enumerate(users):
        world.send(user, on_the_wire(sent(100 + number, {"user": user}, "Other")))
    for lane in range(LANES):
        world.step(lane, "events", 100)
    assert not any(row["complete"] for row in told(world))
    world.settle()
    entered = [orjson.loads(value) for _, _, value in world.sent["segments.transitions"]]
    assert {(change["kind"], change["segment"]) for change in entered} == {("entered", "never"), ("entered", "ever")}
    assert len(entered) == len(users)
    assert all(row["complete"] and row["back_fill"] == 1 for row in told(world))


def test_what_was_read_before_two_became_one_counts_for_the_one():
    """The anonymous history lies in another lane, which reads it after the customer has gone from there."""
    visitor, user = {"anonymous": "acme|a|x"}, {"user": "acme|u|1"}
    events = [sent(1, visitor), sent(2, user | {"anonymous": "acme|a|x"}, "Login")]
    world = world_of(events, {"often": VIEWED})
    assert "redirect" in world.customers()["acme|a|x"]
    late = sent(3, user)
    world.send("acme|u|1", on_the_wire(late))
    world.settle()
    check(world, {"often": VIEWED}, [*events, late])
    assert world.counts()["often", "*", "*"] == (1, 1)


def test_a_back_fill_that_is_interrupted_begins_again():
    rng = random.Random(5)
    events = [sent(number, {"user": f"acme|u|{number % 9}"}) for number in range(18)]
    world = world_of(events, {"often": VIEWED})
    for _ in range(40):
        lane = rng.randrange(LANES)
        world.tick_once(lane)
        if rng.random() < 0.3:
            world.step(lane, "events", 0, forget=True)
    world.settle()
    check(world, {"often": VIEWED}, events)
