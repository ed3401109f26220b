"""Random segments x random logs (duplicates, shuffles, merges, time) against a brute-force oracle (case 10)."""

from __future__ import annotations

import customers_oracle as oracle
from customers_world import (
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
from oracle_world import World, steps

from pipeline.customers.apply import apply_event
from pipeline.customers.evaluate import advance, evaluate
from pipeline.customers.merge import merge
from pipeline.customers.record import Record
from pipeline.models.customer import Customer
from pipeline.segments.compile import Program
from pipeline.segments.counts import Tally

quiet = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


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
