"""A segment sent whole, through fan-out's lanes: each member told once, however lanes go on; at its rate."""

from __future__ import annotations

from collections import Counter

import customers_oracle as oracle
import orjson
import pytest
from customers_world import definitions
from fanout_world import FanoutWorld
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cases import tell
from test_contacts_oracle import NOW, define, logs, on_the_wire, say, sent, state_of

from pipeline.dispatch.mailing import Pace

LANES = 3
VIEWED = {"viewed": {"event": "View"}}


def state_with(definition, **mailing):
    state = state_of(definition)
    say(state, "partner.edit", {"sending": True}, NOW - 400, expect=1)
    say(state, "integration.create", {"id": "crm", "name": "CRM", "kind": "webhook", "settings": {}}, NOW - 400)
    return state


def mail(state, segment, **more):
    say(state, "mailing.create", {"id": f"to-{segment}", "segment": segment, "integration": "crm"} | more, NOW - 300)


def edit(state, name, **data):
    say(state, "mailing.edit", data, NOW - 200, entity=name, expect=state.mailings["acme", name].version)


def told(world):
    return [orjson.loads(value) for _, _, value in world.sent["dispatch.acme.crm"]]


def customers(number, world):
    for n in range(number):
        event = sent(n, {"user": f"acme|u|{n:03}"}, "View" if n % 3 else "Buy")
        world.send(oracle.strongest(event), on_the_wire(event))
    world.drain()


def progress(world):
    rows = {key: value and orjson.loads(value) for _, key, value in world.sent["mailings"]}
    return [row for row in rows.values() if row]


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(definitions, logs, st.randoms(use_true_random=False))
def test_every_member_is_told_once_through_restarts_and_whatever_comes_meanwhile(definition, events, rng):
    state = state_with(definition)
    world = FanoutWorld(state, LANES, NOW)
    for event in events:
        world.send(oracle.strongest(event), on_the_wire(event))
    world.settle()
    segment = rng.choice(sorted(definition))
    members = {
        k
        for k, row in world.customers().items()
        if "*" in row.get("segments", {}).get(segment, {"scopes": []})["scopes"]
    }
    mail(state, segment)
    for _ in range(40):
        lane = rng.randrange(LANES)
        if rng.random() < 0.3:
            world.step(lane, "events", 0, forget=True)
        world.tick_once(lane)
    world.settle()
    assert Counter(record["customer"]["id"] for record in told(world)) == Counter(members)
    assert len({record["id"] for record in told(world)}) == len(members)
    assert sum(row["sent"] for row in progress(world)) == len(members)
    assert all(row["done"] for row in progress(world))


def test_it_goes_at_its_rate_and_stops_where_it_is_paused():
    state = state_with(VIEWED)
    world = FanoutWorld(state, LANES, NOW)
    customers(300, world)
    world.settle()
    mail(state, "viewed", rate=30)
    world.tick()
    assert told(world) == []
    tell(world, NOW + 1000)
    assert len(told(world)) == 30
    tell(world, NOW + 3000)  # a second's worth at most, after a pause of the clock
    assert len(told(world)) == 60
    edit(state, "to-viewed", paused=True)
    tell(world, NOW + 4000)
    assert len(told(world)) == 60
    edit(state, "to-viewed", paused=False, rate=1_000_000)
    tell(world, NOW + 5000)
    tell(world, NOW + 6000)
    assert len(told(world)) == 200
    assert sum(row["looked_at"] for row in progress(world)) == 300


def test_nothing_goes_while_sending_is_off_or_the_tool_is_and_a_removed_one_ends():
    state = state_with(VIEWED)
    world = FanoutWorld(state, LANES, NOW)
    customers(30, world)
    world.settle()
    say(state, "partner.edit", {"sending": False}, NOW - 350, expect=2)
    mail(state, "viewed")
    world.settle()
    assert told(world) == []
    say(state, "integration.edit", {"enabled": False}, NOW - 300, entity="crm", expect=1)
    say(state, "partner.edit", {"sending": True}, NOW - 300, expect=3)
    world.settle()
    assert told(world) == []
    say(state, "mailing.remove", {}, NOW - 250, entity="to-viewed", expect=1)
    say(state, "integration.edit", {"enabled": True}, NOW - 200, entity="crm", expect=2)
    world.settle()
    assert told(world) == []
    assert progress(world) == []


def test_it_waits_until_the_past_of_its_segment_is_read():
    state = state_with({})
    world = FanoutWorld(state, LANES, NOW)
    customers(30, world)
    define(state, VIEWED, NOW - 450)
    mail(state, "viewed", name="Spring Sale")
    world.settle()
    records = told(world)
    assert len(records) == 20
    assert {record["name"] for record in records} == {"Spring Sale"}
    assert {record["rule"] for record in records} == {"to-viewed"}
    assert records[0]["event"]["properties"] == {"segment": "viewed", "mailing": "to-viewed"}


@pytest.mark.parametrize(("rate", "step", "most"), [(0.5, 100, 1), (10, 1000, 10), (1000, 7, 7)])
def test_a_pace_gives_what_has_passed_and_a_second_of_it_at_most(rate, step, most):
    pace = Pace(rate)
    taken = 0
    for moment in range(0, 10_001, step):
        pace.pass_time(moment)
        now = 0
        while pace.take():
            now += 1
        assert now <= max(most, 1)
        taken += now
    assert abs(taken - moment * rate / 1000) <= 1
    pace.pass_time(1_000_000)
    assert sum(pace.take() for _ in range(5000)) == max(1, int(rate))
