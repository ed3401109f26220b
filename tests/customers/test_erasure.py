"""Customers that are erased, through fan-out's lanes: gone from everything, and not to be brought back by what was."""

from __future__ import annotations

import os

import customers_oracle as oracle
import orjson
import pytest
from customers_world import definitions
from fanout_world import FanoutWorld
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_contacts_oracle import (
    ANONYMOUS,
    EMAILS,
    NOW,
    PHONES,
    PLACES,
    USERS,
    define,
    on_the_wire,
    sent,
    some,
    state_of,
    who,
)

from pipeline.agents.tables import FENCE, STATE, TIMERS

LANES = 3
#: As of the language's oracle.
EXAMPLES = int(os.environ.get("ORACLE_EXAMPLES", "500"))
VIEWED = {"viewed": {"event": "View", "window": {"rolling": "1h"}}}
ANN = {"user": USERS[0], "anonymous": ANONYMOUS[0], "email": EMAILS[0], "phone": PHONES[0]}


def event(number, who, after=0, name="View"):
    """At ``after`` ms behind NOW, when it is also received."""
    return sent(number, who, name, PLACES[number % 3], -after)


def arrived(found):
    return on_the_wire(found) | {"received": found["time"]}


def send(world, *events):
    for each in events:
        world.send(oracle.strongest(each), arrived(each))
    world.drain()


def again(events):
    """As from a topic that is read once more, long after the message ids were forgotten."""
    return [each | {"id": f"{each['id']}-again"} for each in events]


def erasures(world):
    return [orjson.loads(value) for _, _, value in world.sent["erasures"]]


def has_word_of(world, *words):
    """Which tables still say one of these."""
    found = set()
    for tables in world.tables:
        for name, table in tables.items():
            for key, value in table.items():
                if any(word.encode() in key + value for word in words):
                    found.add(name)
    return found


def test_who_is_erased_is_gone_from_state_timers_and_counts_and_only_that_is_told():
    world = FanoutWorld(state_of(VIEWED), LANES, NOW)
    send(world, event(1, ANN), event(2, {"user": USERS[1]}))
    assert world.counts()["viewed", "*", "*"] == (2, 2)
    world.erase(USERS[0], NOW + 5)
    world.drain()
    assert world.counts()["viewed", "*", "*"] == (1, 1)
    assert set(world.customers()) == {USERS[1]}
    assert sum(len(tables[TIMERS]) for tables in world.tables) == 1
    assert not has_word_of(world, USERS[0], "a|x", "ann@shop", "46701234567")
    left = orjson.loads(world.sent["segments.transitions"][-1][2])
    assert (left["kind"], left["cause"], left["customer"]) == ("left", "erasure", USERS[0])
    assert (left["identifiers"], left["traits"]) == ([], {})
    (told,) = erasures(world)
    assert (told["customer"], told["at"], told["requested"]) == (USERS[0], NOW + 5, NOW + 5)
    assert set(told["identifiers"]) == set(ANN.values())


def test_case_8_what_was_before_brings_nobody_back_and_what_comes_later_is_somebody_new():
    world = FanoutWorld(state_of(VIEWED), LANES, NOW)
    old = [event(1, ANN), *(event(2 + n, {kind: value}) for n, (kind, value) in enumerate(ANN.items()))]
    send(world, *old)
    world.erase(USERS[0], NOW + 5)
    send(world, *again(old))
    for lane in range(LANES):
        world.step(lane, "events", 0, forget=True)
    history = len(world.sent["history"])
    send(world, *again(again(old)))
    assert (world.customers(), world.counts()) == ({}, {})
    assert len(world.sent["history"]) == history
    send(world, event(20, ANN, after=6), event(21, {"anonymous": ANONYMOUS[0]}, after=7))
    assert world.counts()["viewed", "*", "*"] == (1, 1)
    customer = world.customers()[USERS[0]]
    assert (customer["first_seen"], customer["last_seen"]) == (NOW + 6, NOW + 7)
    assert world.customers()[ANONYMOUS[0]]["redirect"] == USERS[0]
    # A segment that is made later reads history, where the past still is.
    define(world._control.state, {"often": {"event": "View", "count": {"op": ">=", "value": 3}}}, NOW - 500)
    world.settle()
    assert world.counts().get(("often", "*", "*")) is None


def test_what_is_anothers_stays_though_it_was_said_by_who_is_erased():
    world = FanoutWorld(state_of(VIEWED), LANES, NOW)
    one, two = {"user": USERS[0], "phone": PHONES[0]}, {"user": USERS[1], "phone": PHONES[0]}
    send(world, event(1, one), event(2, two), event(3, {"phone": PHONES[0]}))
    world.erase(USERS[1], NOW + 5)
    world.drain()
    assert set(world.customers()) == {USERS[0], PHONES[0]}
    send(world, *again([event(3, {"phone": PHONES[0]})]))
    assert world.counts()["viewed", "*", "*"] == (1, 1)


def test_who_is_asked_for_by_what_leads_to_it_is_erased_and_who_is_unknown_is_fenced():
    world = FanoutWorld(state_of(VIEWED), LANES, NOW)
    send(world, event(1, ANN))
    world.erase(EMAILS[0], NOW + 5)
    world.erase(USERS[2], NOW + 5)
    world.drain()
    assert world.customers() == {}
    assert {told["customer"] for told in erasures(world)} == {USERS[0], USERS[2]}
    send(world, event(2, {"user": USERS[2]}))
    assert world.customers() == {}


def test_a_claim_under_way_brings_nothing_of_before():
    """The visitor's record is on its way to a user that is erased before it arrives."""
    world = FanoutWorld(state_of(VIEWED), LANES, NOW)
    send(world, event(1, {"anonymous": ANONYMOUS[0]}), event(2, {"user": USERS[0]}))
    world.erase(USERS[0], NOW + 5)
    world.send(USERS[0], arrived(event(3, ANN)))
    for lane in range(LANES):
        world.step(lane, "events", 10)
    # The erasure lies before the claim's answer.
    world.drain()
    assert (world.customers(), world.counts()) == ({}, {})
    send(world, event(4, {"anonymous": ANONYMOUS[0]}, after=9))
    assert set(world.customers()) == {ANONYMOUS[0]}


def test_an_old_anonymous_history_that_a_returned_user_claims_is_cut():
    world = FanoutWorld(state_of(VIEWED), LANES, NOW)
    send(world, event(1, {"user": USERS[0]}), event(2, {"anonymous": ANONYMOUS[0]}, after=1))
    world.erase(USERS[0], NOW + 5)
    world.drain()
    send(world, event(3, {"anonymous": ANONYMOUS[0]}, after=8), event(4, ANN, after=9, name="Login"))
    customer = world.customers()[USERS[0]]
    (pairs,) = customer["leaves"].values()
    assert sorted(id for bucket in pairs.values() for _, id in bucket) == ["m3"]


def test_hashes_stand_for_identifiers_and_two_keys_are_both_good():
    world = FanoutWorld(state_of(VIEWED), LANES, NOW)
    send(world, event(1, {"user": USERS[0]}), event(2, {"user": USERS[1]}))
    world.erase(USERS[0], NOW + 5, "erasure-1")
    world.erase(USERS[1], NOW + 5, "erasure-2")
    send(world, *again([event(1, {"user": USERS[0]}), event(2, {"user": USERS[1]})]))
    assert world.customers() == {}
    fences = [key for tables in world.tables for key in tables[STATE] if key.startswith(FENCE) and len(key) == 17]
    assert len(fences) == 2


people = st.sampled_from([*USERS, *ANONYMOUS, *EMAILS, *PHONES])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("event"), who, st.sampled_from(["View", "Buy"])),
        st.tuples(st.just("erase"), people, st.booleans()),
        st.tuples(st.just("replay"), some([1, 2]), st.none()),
    ),
    min_size=2,
    max_size=18,
)


def owners_of(world):
    return {key: row["redirect"] for key, row in world.customers().items() if "redirect" in row}


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(definitions, steps, st.randoms(use_true_random=False))
def test_after_any_erasures_and_replays_the_customers_are_those_of_what_was_not_erased(definition, steps, rng):
    world = FanoutWorld(state_of(definition), LANES, NOW)
    events, done, fences = [], 0, {}
    for number, (kind, what, more) in enumerate(steps):
        if kind == "event":
            events.append(event(number, what, after=number, name=more))
            send(world, events[-1])
        elif kind == "replay":
            # All of it, by other ids: what lives counts twice, what was erased not at all.
            twice = [each | {"id": f"{each['id']}-{number}"} for each in rng.sample(events, min(len(events), 4))]
            events += twice
            send(world, *twice)
            events = [each for each in events if not each.get("erased")]
        else:
            before = owners_of(world)
            world.erase(what, NOW + number)
            world.drain()
            for told in erasures(world)[done:]:
                done += 1
                free = [i for i in told["identifiers"] if before.get(i, told["customer"]) == told["customer"]]
                alone = {i for i in free if i != told["customer"] and i in world.customers()}
                fenced = {i: told["at"] for i in free if i not in alone}
                fences |= fenced
                survivors = [e for e in events if e["time"] > fenced.get(oracle.strongest(e), -1)]
                gone = [e for e in events if e not in survivors]
                events = survivors
                # What is erased may come as often as it likes.
                send(world, *again(gone))
        if rng.random() < 0.3:
            world.step(rng.randrange(LANES), "events", 0, forget=True)
    world.settle()
    owners = owners_of(world)
    customers = {key: row for key, row in world.customers().items() if "redirect" not in row}
    people = oracle.persons(events, owners)
    assert customers.keys() == people.keys()
    whole = True
    for key, customer in customers.items():
        # A visitor whom nobody knew when a user was erased may become that user's when it returns, without its past.
        young = [each for each in people[key] if each["time"] > fences.get(key, -1)]
        expected = oracle.memberships(definition, young, NOW)
        have = {segment: set(membership["scopes"]) for segment, membership in customer["segments"].items()}
        if len(young) == len(people[key]):
            assert have == expected
        else:
            # From where it was seen, is not forgotten.
            whole = False
            assert {s for s in have if "*" in have[s]} == {s for s in expected if "*" in expected[s]}
    if whole:
        parts = [(found, oracle.has_contact(found)) for found in people.values()]
        assert world.counts() == oracle.counts(definition, parts, NOW)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(definitions, steps, st.randoms(use_true_random=False))
def test_however_erasures_and_claims_cross_the_counts_are_those_of_the_customers(definition, steps, rng):
    """Nothing is waited for: lanes go on in any order, and are restarted."""
    world = FanoutWorld(state_of(definition), LANES, NOW)
    events = {}
    for number, (kind, what, more) in enumerate(steps):
        if kind == "event":
            made = event(number, what, after=number, name=more)
            events[made["id"]] = made
            world.send(oracle.strongest(made), arrived(made))
        elif kind == "erase":
            world.erase(what, NOW + number)
        while rng.random() < 0.6:
            topic = rng.choice(["events", "moves"])
            world.step(rng.randrange(LANES), topic, rng.randint(1, 4), forget=rng.random() < 0.2)
    world.settle()
    customers = {key: row for key, row in world.customers().items() if "redirect" not in row}
    fences = {}
    for told in erasures(world):
        fences[told["customer"]] = max(told["at"], fences.get(told["customer"], -1))
    counted = 0
    for key, customer in customers.items():
        assert customer["last_seen"] > fences.get(key, -1)
        counted += sum("*" in membership["scopes"] for membership in customer["segments"].values())
        for buckets in customer["leaves"].values():
            for pairs in buckets.values():
                for time, id in pairs:
                    assert time > fences.get(key, -1), (id, key)
    assert sum(row[0] for where, row in world.counts().items() if where[1:] == ("*", "*")) == counted


@pytest.mark.parametrize("late", [False, True], ids=["counted as they came", "made later"])
def test_of_a_visitors_past_so_much_joins_as_is_allowed(late):
    definition = {"thrice": {"event": "View", "count": {"op": ">=", "value": 3}}, "once": {"event": "View"}}
    state = state_of({} if late else definition)
    world = FanoutWorld(state, LANES, NOW, join_ms=20)
    visits = [sent(n, {"anonymous": ANONYMOUS[0]}, age=age) for n, age in enumerate([40, 21, 20, 5])]
    send(world, *visits, sent(9, ANN, "Login"))
    straggler = sent(10, {"anonymous": ANONYMOUS[0]}, age=30)
    send(world, straggler)
    if late:
        define(state, definition, NOW - 500)
    world.settle()
    assert world.counts().get(("thrice", "*", "*")) is None
    assert world.counts()["once", "*", "*"] == (1, 1)
    history = [orjson.loads(value)["customer"] for _, _, value in world.sent["history"]]
    assert history.count(ANONYMOUS[0]) == 5  # with the straggler, which stays what it was
    send(world, sent(11, {"anonymous": ANONYMOUS[0]}, age=1))
    assert world.counts()["thrice", "*", "*"] == (1, 1)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(definitions, st.lists(st.tuples(who, st.integers(0, 40)), min_size=1, max_size=14), st.integers(0, 40))
def test_what_joins_is_the_same_for_a_segment_that_is_made_later(definition, rows, join_ms):
    found = []
    for late in (False, True):
        state = state_of({} if late else definition)
        world = FanoutWorld(state, LANES, NOW, join_ms=join_ms)
        for number, (named, age) in enumerate(rows):
            send(world, sent(number, named, age=age))
        if late:
            define(state, definition, NOW - 500)
        world.settle()
        found.append(
            {
                key: {segment: membership["scopes"] for segment, membership in row["segments"].items()}
                for key, row in world.customers().items()
                if "redirect" not in row
            }
        )
    assert found[0] == found[1]
