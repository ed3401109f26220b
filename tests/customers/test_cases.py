"""Cases 6, 7 and 9 of the design, through fan-out's lanes: restarts, lag, identities, lanes that move."""

from __future__ import annotations

import random

import customers_oracle as oracle
import orjson
import pytest
from fanout_world import FanoutWorld
from test_contacts_oracle import NOW, PLACES, check, on_the_wire, sent, state_of

from pipeline.models.event import WATERMARK_KEY

LANES = 3
WINDOW = 60_000
SEEN = {"seen": {"event": "View", "window": {"rolling": "60s"}}}
EVER = {"viewed": {"event": "View"}, "twice": {"event": "View", "count": {"op": ">=", "value": 2}}}
ANN = "acme|u|1"


def tell(world, moment, lanes=range(LANES)):
    """Intake's ``lanes`` are so far; then time passes."""
    for lane in world.events:
        lane.append((WATERMARK_KEY, orjson.dumps({"received": {str(n): moment for n in lanes}})))
    world.drain()
    world.tick()


def restart(world):
    """Every lane goes on in a new process, from its tables."""
    for lane in range(LANES):
        world.step(lane, "events", 0, forget=True)


def play(events, definition):
    world = FanoutWorld(state_of(definition), LANES, NOW)
    for event in events:
        world.send(oracle.strongest(event), on_the_wire(event))
    world.drain()
    return world


def transitions(world):
    return [orjson.loads(value) for _, _, value in world.sent["segments.transitions"]]


def test_case_6_after_a_restart_a_dormant_customer_still_leaves_on_time():
    world = play([sent(1, {"user": ANN})], SEEN)
    restart(world)
    tell(world, NOW + WINDOW)
    assert world.counts()["seen", "*", "*"] == (1, 1)
    restart(world)
    tell(world, NOW + WINDOW + 1)
    assert world.counts() == {}
    entered, left = transitions(world)
    assert (entered["kind"], left["kind"], left["cause"], left["at"]) == ("entered", "left", "time", NOW + WINDOW + 1)


def test_case_6_a_lane_of_intake_that_lags_lets_nobody_leave():
    world = play([sent(1, {"user": ANN})], SEEN)
    tell(world, NOW + 10 * WINDOW, lanes=range(1, LANES))
    assert world.counts()["seen", "*", "*"] == (1, 1)
    # What it had not told of yet keeps her in for its own minute.
    late = sent(2, {"user": ANN}) | {"time": NOW + WINDOW // 2}
    world.send(ANN, on_the_wire(late) | {"received": NOW + WINDOW // 2})
    tell(world, NOW + WINDOW + 1)
    assert world.counts()["seen", "*", "*"] == (1, 1)
    tell(world, NOW + WINDOW // 2 + WINDOW + 1)
    assert world.counts() == {}


@pytest.mark.parametrize("first", ["browses", "signs in"])
def test_case_7_anonymous_browsing_then_identify_is_one_person_counted_once(first):
    browsed = sent(1, {"anonymous": "acme|a|x"})
    signed_in = sent(2, {"user": ANN, "anonymous": "acme|a|x"}, "Login")
    viewed = sent(3, {"user": ANN})
    events = [browsed, signed_in, viewed] if first == "browses" else [signed_in, viewed, browsed]
    world = play(events, EVER)
    assert world.counts()["viewed", "*", "*"] == world.counts()["twice", "*", "*"] == (1, 1)
    check(world, EVER, events)


def test_case_7_a_chain_of_merges_is_one_person():
    events = [
        sent(1, {"anonymous": "acme|a|x"}),
        sent(2, {"email": "acme|e|ann@shop.example"}),
        sent(3, {"phone": "acme|p|+46701234567"}),
        sent(4, {"user": ANN, "anonymous": "acme|a|x"}, "Login"),
        sent(5, {"user": ANN, "email": "acme|e|ann@shop.example"}, "Login"),
        sent(6, {"user": ANN, "phone": "acme|p|+46701234567"}, "Login"),
    ]
    for seed in range(20):
        random.Random(seed).shuffle(events)
        world = play(events, EVER)
        assert world.counts()["twice", "*", "*"] == (1, 1)
        check(world, EVER, events)


def test_case_7_a_customer_of_two_sources_is_one_and_counts_in_each():
    """Message ids are a source's own: the same one from another is another event."""
    events = [sent(1, {"user": ANN}, place=PLACES[0]), sent(1, {"user": ANN}, place=PLACES[1])]
    world = play(events, EVER)
    counts = world.counts()
    assert counts["viewed", "*", "*"] == counts["viewed", "web", "*"] == counts["viewed", "app", "*"] == (1, 1)
    assert counts["twice", "*", "*"] == (1, 1)
    assert ("twice", "web", "*") not in counts


def test_case_9_wherever_the_lanes_go_the_parts_add_up_to_brute_force():
    rng = random.Random(9)
    events = [
        sent(number, {"user": f"acme|u|{rng.randrange(30)}"}, rng.choice(["View", "Buy"]), rng.choice(PLACES))
        for number in range(300)
    ]
    world = FanoutWorld(state_of(EVER), LANES, NOW)
    done = []
    for event in events:
        world.send(oracle.strongest(event), on_the_wire(event))
        done.append(event)
        if rng.random() < 0.1:  # all lanes are somebody else's now
            restart(world)
            world.drain()
            restart(world)
            people = oracle.persons(done, {})
            parts = [(own, oracle.has_contact(own)) for own in people.values()]
            assert world.counts() == oracle.counts(EVER, parts, NOW)
