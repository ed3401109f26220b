"""The identifier index over lanes: shuffled, repeated and interrupted, against an oracle that shares no code."""

from __future__ import annotations

import customers_oracle as oracle
import orjson
import pytest
from customers_world import definitions
from fanout_world import FanoutWorld
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.control.reducer import ControlState
from pipeline.models.control import Command

NOW = 1_790_000_000_000
USERS = ["acme|u|1", "acme|u|2", "acme|u|3"]
ANONYMOUS = ["acme|a|x", "acme|a|y"]
EMAILS = ["acme|e|ann@shop.example", "acme|e|family@shop.example"]
PHONES = ["acme|p|+46701234567", "acme|p|+46701234568"]
PLACES = [("web", "Web"), ("app", "Call Center"), ("crm", "CRM")]


def state_of(definition):
    state = ControlState()
    commands = [
        ("partner.create", {"id": "acme", "name": "Acme"}),
        *(("source.create", {"id": id, "name": id, "code": id, "bridge": "rest"}) for id, _ in PLACES),
    ]
    for verb, data in commands:
        say(state, verb, data, NOW - 1_000_000)
    define(state, definition, NOW - 1_000_000)
    return state


def define(state, definition, moment):
    """These segments, from now on."""
    for id, condition in definition.items():
        say(state, "segment.create", {"id": id, "name": id, "condition": condition}, moment)


def say(state, verb, data, moment, **about):
    """Onto the control log."""
    offset = state.offset + 1
    command = Command(id=f"command-{offset}", command=verb, partner="acme", data=data, **about)
    answer = state.apply(offset, moment, command.to_json())
    assert answer.status in (200, 201), answer


def sent(number, who, name="View", place=PLACES[0], age=0, properties=None):
    """An event as the oracle reads it. ``who``: identifiers by kind."""
    known = {kind: who.get(kind) for kind in ("user", "anonymous", "email", "phone")}
    source, channel = place
    return known | {
        "id": f"m{number}",
        "source": source,
        "channel": channel,
        "time": NOW - age,
        "name": name,
        "properties": properties,
    }


def on_the_wire(event):
    """The same event as intake sends it."""
    values = {kind: event[kind] and event[kind].split("|", 2)[2] for kind in ("user", "anonymous", "email", "phone")}
    fields = {key: event[key] for key in ("id", "source", "channel", "time", "name", "properties")}
    fields |= {"user_id": values["user"], "anonymous_id": values["anonymous"]}
    fields |= {"email": values["email"], "phone": values["phone"]}
    return fields | {"partner": "acme", "type": "track", "received": NOW, "control": 0, "flags": []}


def play(definition, events, rng, lanes=3):
    """All of ``events`` and some of them again, in any order, the lanes in any order, restarted now and then."""
    world = FanoutWorld(state_of(definition), lanes, NOW)
    log = [*events, *(event for event in events if rng.random() < 0.3)]
    rng.shuffle(log)
    for event in log:
        world.send(oracle.strongest(event), on_the_wire(event))
        while rng.random() < 0.5:
            world.step(
                rng.randrange(lanes), rng.choice(["events", "moves"]), rng.randint(1, 4), forget=rng.random() < 0.2
            )
    world.drain()
    return world


def check(world, definition, events):
    """Who owns what is one of those who said so; and whose events are whose, and what counts, follow from that."""
    rows = world.customers()
    owners = {key: row["redirect"] for key, row in rows.items() if "redirect" in row}
    claims = oracle.said(events)
    assert set(owners.items()) <= claims
    assert owners.keys() == {identifier for identifier, _ in claims}
    people = oracle.persons(events, owners)
    customers = {key: row for key, row in rows.items() if "redirect" not in row}
    assert customers.keys() == people.keys()
    for key, customer in customers.items():
        have = {segment: set(membership["scopes"]) for segment, membership in customer["segments"].items()}
        assert have == oracle.memberships(definition, people[key], NOW)
        assert customer["id"] == customer["identifiers"][0] == key
        # User ids never become one by what they share.
        assert not [i for i in customer["identifiers"][1:] if i.startswith("acme|u|")]
    parts = [(events, oracle.has_contact(events)) for events in people.values()]
    assert world.counts() == oracle.counts(definition, parts, NOW)
    # History has each event once, under whom it was known by at that time.
    history = [orjson.loads(value) for _, _, value in world.sent["history"]]
    assert sorted((e["source"], e["id"]) for e in history) == sorted({(e["source"], e["id"]) for e in events})
    for entry in history:
        own = owners.get(entry["customer"], entry["customer"])
        assert entry["id"] in {e["id"] for e in people[own]}


def some(values):
    return st.one_of(st.none(), st.none(), st.sampled_from(values))


who = st.fixed_dictionaries(
    {"user": some(USERS), "anonymous": some(ANONYMOUS), "email": some(EMAILS), "phone": some(PHONES)}
).filter(lambda who: any(who.values()))
logs = st.lists(
    st.tuples(
        who,
        st.sampled_from(["View", "Buy"]),
        st.sampled_from(PLACES),
        st.integers(0, 40),
        st.sampled_from([None, {"p": 1}]),
    ),
    min_size=1,
    max_size=14,
).map(lambda rows: [sent(number, *row) for number, row in enumerate(rows)])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(definitions, logs, st.randoms(use_true_random=False))
def test_whatever_comes_first_each_event_is_counted_for_the_one_customer_that_it_belongs_to(definition, events, rng):
    check(play(definition, events, rng), definition, events)


CALLED = {"event": "Call Ended"}


def call(number, phone=PHONES[0]):
    return sent(number, {"phone": phone}, "Call Ended", PLACES[1])


@pytest.mark.parametrize("first", ["call", "customer"])
def test_a_call_counts_for_the_customer_whose_number_it_is_whichever_came_first(first):
    definition = {"called": CALLED}
    upsert = sent(1, {"user": USERS[0], "phone": PHONES[0]}, "Identified", PLACES[2])
    world = FanoutWorld(state_of(definition), 3, NOW)
    for event in (call(0), upsert) if first == "call" else (upsert, call(0)):
        world.send(oracle.strongest(event), on_the_wire(event))
        world.drain()
    check(world, definition, [call(0), upsert])
    assert world.customers()[PHONES[0]] == {"redirect": USERS[0]}
    assert world.counts()["called", "*", "*"] == (1, 1)


def test_a_familys_phone_stays_with_the_first_and_makes_no_two_users_one():
    definition = {"called": CALLED}
    one, two = (
        sent(n, {"user": user, "phone": PHONES[0]}, "Identified", PLACES[2]) for n, user in enumerate(USERS[:2])
    )
    world = FanoutWorld(state_of(definition), 3, NOW)
    for event in (one, two, call(2)):
        world.send(oracle.strongest(event), on_the_wire(event))
        world.drain()
    check(world, definition, [one, two, call(2)])
    rows = world.customers()
    assert rows[PHONES[0]] == {"redirect": USERS[0]}
    assert [set(rows[user]["segments"]) for user in USERS[:2]] == [{"called"}, set()]


def test_what_a_visitor_types_before_signing_in_takes_nobodys_mail_away():
    definition = {"bought": {"event": "Buy"}}
    typed = sent(0, {"anonymous": ANONYMOUS[0], "email": EMAILS[0]})
    signed_in = sent(1, {"user": USERS[0], "anonymous": ANONYMOUS[0]})
    owner = sent(2, {"user": USERS[1], "email": EMAILS[0]})
    order = sent(3, {"email": EMAILS[0]}, "Buy")
    world = FanoutWorld(state_of(definition), 3, NOW)
    for event in (typed, signed_in, order, owner):
        world.send(oracle.strongest(event), on_the_wire(event))
        world.drain()
    check(world, definition, [typed, signed_in, order, owner])
    assert world.customers()[EMAILS[0]] == {"redirect": USERS[1]}


def test_a_claim_is_sent_once_however_often_the_user_says_it_and_after_a_restart():
    world = FanoutWorld(state_of({}), 3, NOW)
    claims = 0
    for number in range(6):
        event = sent(number, {"user": USERS[0], "email": EMAILS[0], "phone": PHONES[0]})
        world.send(USERS[0], on_the_wire(event))
        for lane in range(3):
            world.step(lane, "events", 10, forget=True)
        claims += sum(map(len, world.moves))
        world.drain()
    assert claims == 2
