"""People as the engine has them and as the oracle has them, and what may happen to them."""

from __future__ import annotations

from types import SimpleNamespace

import customers_oracle as oracle
from customers_world import Happening, T, memberships, plain, segment, trait
from hypothesis import strategies as st

from pipeline.customers.apply import apply_event
from pipeline.customers.evaluate import advance, evaluate, release
from pipeline.customers.merge import merge
from pipeline.customers.record import Record
from pipeline.segments.compile import Program
from pipeline.segments.counts import Tally

__all__ = ["World", "steps"]

#: What the three are known to have once they are identified.
TRAITS = [{"plan": "gold", "age": "41"}, {"plan": "free", "since": "2023-09-03"}, {"plan": 1}]


def traits(index, times):
    """What a person says of itself: another thing each time."""
    return TRAITS[(index + times) % len(TRAITS)]


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

    def __init__(self, definition, log, full, base=T, unit=1, traits=None):
        self.definition = definition
        computations = [trait(computation, id) for id, computation in (traits or {}).items()]
        self.program = Program((segment(condition, id) for id, condition in definition.items()), computations)
        self.log = log
        self.full = full
        self.unit = unit
        self.said = 0
        self.base = base
        self.now = base + 10 * unit
        self.tally = Tally()
        self.published = {}
        self.members = set()
        self.stored = {}
        self.people = {i: SimpleNamespace(events=[], identified=False, id=None, traits={}) for i in range(3)}
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
        self.said += 1
        name, time = f"i{self.said}", self.base + self.said
        what = Happening("Identified", time, name, "web", "Web", "identify", user_id=f"u{index}")
        what.traits = traits(index, self.said)
        self.people[index].identified = True
        self.happen(index, what)

    def tick(self, length):
        self.now += length * self.unit
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
            record = self.load(index)
            computed = record.traits.get("computed", {})
            person.id = record.id
            person.traits = record.traits | {f"computed.{name}": value for name, value in computed.items()}
            expected = oracle.memberships(self.definition, person.events, self.now, vars(person))
            have = memberships(record) if index in self.stored else {}
            assert have == expected
            in_all = {s for s, scopes in expected.items() if "*" in scopes}
            assert {s for i, s in self.members if i == index} == in_all
        people = [(p.events, p.identified, vars(p)) for p in self.people.values()]
        expected_counts = oracle.counts(self.definition, people, self.now)
        assert self.tally.rows() == expected_counts
        self.published |= self.tally.take()
        assert {k: v for k, v in self.published.items() if v[0]} == expected_counts
