"""Random segments x random logs (duplicates, shuffles, merges, time) against a brute-force oracle (case 10)."""

from __future__ import annotations

from types import SimpleNamespace

import customers_oracle as oracle
from customers_world import (
    Happening,
    T,
    conditions,
    definitions,
    happenings,
    memberships,
    plain,
    program,
    segment,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.customers.apply import apply_event
from pipeline.customers.evaluate import advance, evaluate, release
from pipeline.customers.merge import merge
from pipeline.customers.record import Record
from pipeline.models.customer import Customer
from pipeline.segments.compile import Program
from pipeline.segments.counts import Tally

quiet = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}

steps = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.integers(0, 13)),
        st.tuples(st.just("event"), st.integers(0, 13)),
        st.tuples(st.just("event"), st.integers(0, 13)),
        st.tuples(st.just("tick"), st.integers(1, 30)),
        st.tuples(st.just("merge"), st.integers(0, 5)),
        st.tuples(st.just("identify"), st.integers(0, 2)),
    ),
    min_size=1,
    max_size=30,
)


class World:
    """Three people as the engine has them (bytes, a tally) and as the oracle has them (lists of events)."""

    def __init__(self, definition, log, full):
        self.definition = definition
        self.program = program(**definition)
        self.log = log
        self.full = full
        self.now = T + 10
        self.tally = Tally()
        self.published = {}
        self.members = set()
        self.stored = {}
        self.people = {i: SimpleNamespace(events=[], identified=False) for i in range(3)}
        self.alias = {0: 0, 1: 1, 2: 2}

    def person(self, index):
        while self.alias[index] != index:
            index = self.alias[index]
        return index

    def load(self, index):
        data = self.stored.get(index)
        return Record.decode(data) if data else Record(f"acme|a|{index}", "acme", self.now)

    def settle(self, index, record, cause, event=None):
        self.count(index, evaluate(record, self.program, self.now, cause, event, full=self.full))
        self.stored[index] = record.encode()

    def count(self, index, changes):
        for change in changes:
            self.tally.apply(change)
            member = (index, change.segment)
            if change.kind == "entered":
                assert member not in self.members
                self.members.add(member)
            elif change.kind == "left":
                assert member in self.members
                self.members.remove(member)

    def happen(self, index, happening):
        record = self.load(index)
        self.count(index, advance(record, self.program, self.now))
        apply_event(record, happening, self.program)
        self.settle(index, record, "event", happening.id)
        self.people[index].events.append(plain(happening))

    def event(self, number):
        self.happen(self.person(number % 3), self.log[number % len(self.log)])

    def identify(self, index):
        index = self.person(index)
        what = Happening("Identified", T, f"i{index}", "web", "Web", "identify", user_id=f"u{index}")
        self.people[index].identified = True
        self.happen(index, what)

    def tick(self, length):
        self.now += length
        for index, data in list(self.stored.items()):
            record = Record.decode(data)
            if record.deadline is not None and record.deadline <= self.now:
                self.count(index, advance(record, self.program, self.now))
                self.stored[index] = record.encode()

    def merge(self, pair):
        into, other = [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)][pair]
        into, other = self.person(into), self.person(other)
        if into == other or into not in self.stored or other not in self.stored:
            return
        gone = self.load(other)
        self.count(other, release(gone, self.now, "merge"))
        record = self.load(into)
        self.count(into, advance(record, self.program, self.now))
        merge(record, gone, self.program if pair % 2 else None)
        self.settle(into, record, "merge")
        del self.stored[other]
        self.alias[other] = into
        self.people[into].events += self.people[other].events
        self.people[into].identified |= self.people[other].identified
        del self.people[other]

    def check(self):
        for index, person in self.people.items():
            expected = oracle.memberships(self.definition, person.events, self.now)
            have = memberships(self.load(index)) if index in self.stored else {}
            assert have == expected
            in_all = {s for s, scopes in expected.items() if "*" in scopes}
            assert {s for i, s in self.members if i == index} == in_all
        people = [(p.events, p.identified) for p in self.people.values()]
        expected_counts = oracle.counts(self.definition, people, self.now)
        assert self.tally.rows() == expected_counts
        self.published |= self.tally.take()
        assert {k: v for k, v in self.published.items() if v[0]} == expected_counts


@settings(max_examples=250, **quiet)
@given(definitions, happenings, steps, st.booleans())
def test_memberships_and_counts_equal_the_oracle_after_every_step(definition, log, sequence, full):
    world = World(definition, log, full)
    for action, argument in sequence:
        getattr(world, action)(argument)
        world.check()
    for data in world.stored.values():
        Customer.model_validate_json(data)


@settings(max_examples=120, **quiet)
@given(definitions, happenings)
def test_nothing_changes_before_the_deadline_and_firing_at_deadlines_is_enough(definition, log):
    compiled = program(**definition)
    record = Record("acme|a|1", "acme", T)
    for happening in log:
        apply_event(record, happening, compiled)
    evaluate(record, compiled, T, "event", full=True)
    events = [plain(h) for h in log]
    for moment in oracle.moments(definition, events):
        if moment < T:
            continue
        if record.deadline is not None and record.deadline <= moment:
            before = record.deadline
            evaluate(record, compiled, moment, "time")
            assert record.deadline is None or record.deadline > before
        assert memberships(record) == oracle.memberships(definition, events, moment)
    if record.deadline is not None:
        advance(record, compiled, record.deadline + 10_000)
    assert record.deadline is None


@settings(max_examples=80, **quiet)
@given(definitions, happenings, st.integers(0, 60))
def test_one_late_advance_gives_every_transition_at_its_own_moment(definition, log, delay):
    compiled = program(**definition)
    punctual, late = (Record("acme|a|1", "acme", T) for _ in range(2))
    for record in (punctual, late):
        for happening in log:
            apply_event(record, happening, compiled)
        evaluate(record, compiled, T + 40, "event")
    moments = range(T + 40, T + 40 + delay + 1)
    step_by_step = [change for now in moments for change in advance(punctual, compiled, now)]
    assert advance(late, compiled, T + 40 + delay) == step_by_step
    assert late.encode() == punctual.encode()


@settings(max_examples=80, **quiet)
@given(definitions, happenings, st.lists(st.integers(0, 25), min_size=14, max_size=14))
def test_looking_at_touched_segments_gives_what_looking_at_all_gives(definition, log, pauses):
    compiled = program(**definition)
    quick, thorough = (Record("acme|a|1", "acme", T) for _ in range(2))
    now = T
    for happening, pause in zip(log, pauses, strict=False):
        now += pause
        found = []
        for record, full in ((quick, False), (thorough, True)):
            changes = advance(record, compiled, now)
            apply_event(record, happening, compiled)
            changes += evaluate(record, compiled, now, "event", happening.id, full=full)
            found.append(sorted(changes, key=lambda c: (c.at, c.segment)))
        assert found[0] == found[1]
        assert quick.segments == thorough.segments
        assert quick.leaves == thorough.leaves
        if thorough.deadline is not None:
            assert quick.deadline is not None
            assert now < quick.deadline <= thorough.deadline


@settings(max_examples=80, **quiet)
@given(definitions, happenings, st.lists(st.integers(0, 2), min_size=14, max_size=14), st.booleans())
def test_merge_is_idempotent_commutative_and_associative_in_leaves(definition, log, owners, knows):
    compiled = program(**definition)
    known = compiled if knows else None

    def parts():
        records = [Record(f"acme|a|{i}", "acme", T) for i in range(3)]
        for happening, owner in zip(log, owners, strict=False):
            apply_event(records[owner], happening, compiled)
        return records

    def joined(*order):
        records = parts()
        for other in order[1:]:
            merge(records[order[0]], records[other], known)
        return records[order[0]]

    expected = joined(0, 1, 2)
    a, b, c = parts()
    merge(b, c, known)
    merge(a, b, known)
    for record in (joined(0, 2, 1), joined(1, 0, 2), joined(2, 1, 0), joined(0, 1, 2, 1, 2, 0), a):
        assert record.leaves == expected.leaves
        assert record.origins == expected.origins
        assert set(record.identifiers) == set(expected.identifiers)
        assert (record.first_seen, record.last_seen) == (expected.first_seen, expected.last_seen)
    evaluate(expected, compiled, T + 30, "merge")
    assert memberships(expected) == oracle.memberships(
        definition, [plain(h) for h, _ in zip(log, owners, strict=False)], T + 30
    )


@settings(max_examples=60, **quiet)
@given(definitions, conditions, happenings, st.integers(0, 60))
def test_an_edited_segment_replayed_equals_the_oracle(definition, edit, log, pause):
    record, tally = Record("acme|a|1", "acme", T), Tally()
    first = program(**definition)
    for happening in log:
        apply_event(record, happening, first)
    for change in evaluate(record, first, T, "event"):
        tally.apply(change)
    edited = {**definition, "s0": edit}
    second = Program(segment(c, k, version=2) for k, c in edited.items())
    changes = advance(record, first, T + pause)
    changes += evaluate(record, second, T + pause, "definition", full=True)
    assert record.leaves.keys() <= second.leaves.keys()
    for happening in reversed(log):
        apply_event(record, happening, second)
    changes += evaluate(record, second, T + pause, "definition", full=True)
    for change in changes:
        tally.apply(change)
    events = [plain(h) for h in log]
    assert memberships(record) == oracle.memberships(edited, events, T + pause)
    assert tally.rows() == oracle.counts(edited, [(events, False)], T + pause)
    assert {m.version for m in record.segments.values()} <= {2}
    assert evaluate(record, second, T + pause, "definition", full=True) == []
