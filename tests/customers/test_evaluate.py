"""Memberships over time: the cases of the design (segments, "Cases that must hold"), one by one."""

from __future__ import annotations

import pytest
from customers_world import DAY, Happening, T, memberships, program, segment

from pipeline.customers.apply import apply_event
from pipeline.customers.evaluate import advance, evaluate, release
from pipeline.customers.record import Record
from pipeline.segments.compile import Program
from pipeline.segments.counts import Tally


class Person:
    """A record and the transitions it made, as (segment, kind, cause, at - T)."""

    def __init__(self, compiled, identifier="acme|a|1"):
        self.program = compiled
        self.record = Record(identifier, "acme", T)
        self.tally = Tally()

    def did(self, name="View", at=0, *, now=None, id=None, **fields):
        """An event of ``at`` ms after T that arrives when the clock stands at ``now`` (``at``)."""
        now = T + (at if now is None else now)
        transitions = self._count(advance(self.record, self.program, now))
        apply_event(self.record, Happening(name, T + at, id or f"{name}{at}", **fields), self.program)
        return transitions + self._count(evaluate(self.record, self.program, now, "event", id))

    def wait(self, until):
        return self._count(advance(self.record, self.program, T + until))

    def redefine(self, compiled, now=0):
        self.program = compiled
        return self._count(evaluate(self.record, compiled, T + now, "definition", full=True))

    def _count(self, changes):
        for change in changes:
            self.tally.apply(change)
        return [(c.segment, c.kind, c.cause, c.at - T) for c in changes if c.kind]

    @property
    def deadline(self):
        return None if self.record.deadline is None else self.record.deadline - T

    @property
    def scopes(self):
        return memberships(self.record).get("s", set())


def view(count=None, window=None, **fields):
    leaf = {"event": "View", **fields}
    if count:
        leaf["count"] = dict(zip(("op", "value", "to"), count, strict=False))
    if window:
        leaf["window"] = {"rolling": window}
    return leaf


WEB = {"*", "s:web", "c:Web"}


def test_case_1_an_event_older_than_the_window_is_out_and_a_new_one_in():
    person = Person(program(s=view(window="10ms")))
    assert person.did(at=0, now=11) == []
    assert person.did(at=5, now=12) == [("s", "entered", "event", 12)]
    assert person.did(at=2, now=12) == []


def test_case_1_silence_in_at_exactly_the_end_and_out_a_millisecond_later_then_re_entry():
    person = Person(program(s=view(window="30d")))
    assert person.did(at=0) == [("s", "entered", "event", 0)]
    assert person.deadline == 30 * DAY + 1
    assert person.wait(30 * DAY) == []
    assert person.scopes == WEB
    assert person.wait(30 * DAY + 1) == [("s", "left", "time", 30 * DAY + 1)]
    assert person.scopes == set()
    assert person.deadline is None
    assert person.did(at=31 * DAY) == [("s", "entered", "event", 31 * DAY)]
    assert person.record.segments["s"].since == T + 31 * DAY


def test_case_1_a_new_event_before_the_end_keeps_the_customer_in():
    person = Person(program(s=view(window="10ms")))
    person.did(at=0)
    assert person.did(at=9) == []
    assert person.record.segments["s"].since == T
    assert person.wait(19) == []
    assert person.wait(20) == [("s", "left", "time", 20)]


def test_case_1_an_event_after_an_overdue_exit_is_a_re_entry():
    person = Person(program(s=view(window="10ms")))
    person.did(at=0)
    assert person.did(at=50) == [("s", "left", "time", 11), ("s", "entered", "event", 50)]


def test_case_2_exactly_one_in_the_window_enters_and_leaves_as_events_arrive_and_age():
    person = Person(program(s=view(("=", 1), "10ms")))
    assert person.did(at=0) == [("s", "entered", "event", 0)]
    assert person.did(at=4) == [("s", "left", "event", 4)]
    assert person.deadline == 11
    assert person.wait(10) == []
    assert person.wait(14) == [("s", "entered", "time", 11)]
    assert person.wait(15) == [("s", "left", "time", 15)]
    assert person.did(at=15) == [("s", "entered", "event", 15)]


@pytest.mark.parametrize(
    ("count", "moment"),
    [(("=", 0), 13), (("<", 1), 13), (("<", 2), 11), (("<=", 1), 11), (("between", 0, 1), 11)],
)
def test_case_2_time_lets_people_in(count, moment):
    person = Person(program(s=view(count, "10ms")))
    for at in (0, 2):
        person.did(at=at)
    assert person.scopes == set()
    assert person.deadline <= moment
    assert person.wait(moment - 1) == []
    assert person.wait(moment) == [("s", "entered", "time", moment)]
    assert person.deadline is None


def test_case_2_absence_holds_for_a_new_customer_at_once():
    person = Person(program(s=view(("=", 0), "10ms")))
    assert person.did("Buy") == [("s", "entered", "event", 0)]
    assert person.did("View", at=1) == [("s", "left", "event", 1)]


def test_case_3_a_and_not_b_with_different_windows():
    condition = {"all": [view(window="20ms"), {"not": {"event": "Buy", "window": {"rolling": "5ms"}}}]}
    person = Person(program(s=condition))
    assert person.did("View", at=0) == [("s", "entered", "event", 0)]
    assert person.did("Buy", at=3) == [("s", "left", "event", 3)]
    assert person.wait(8) == []
    assert person.wait(9) == [("s", "entered", "time", 9)]
    assert person.wait(20) == []
    assert person.wait(30) == [("s", "left", "time", 21)]


def test_case_3_expiry_of_one_leaf_recomposes_the_whole_tree():
    buy = {"event": "Buy", "window": {"rolling": "50ms"}}
    condition = {"any": [{"all": [view(window="10ms"), buy]}, {"all": [view(("=", 0), "10ms"), {"not": buy}]}]}
    person = Person(program(s=condition, other=buy))
    person.did("View", at=0)
    assert person.did("Buy", at=1) == [("s", "entered", "event", 1), ("other", "entered", "event", 1)]
    assert person.wait(11) == [("s", "left", "time", 11)]
    assert person.wait(99) == [("s", "entered", "time", 52), ("other", "left", "time", 52)]


def test_a_segment_made_of_another_follows_it_when_several_moments_pass_at_once():
    """Its mask was kept from the first of them (found by the soak): nobody entered at the second."""
    person = Person(
        program(
            lately={"all": [{"event": "View"}, {"not": {"event": "Bought", "window": {"rolling": "30s"}}}]},
            half={"segment": "lately"},
            soon=view(window="10s"),
        )
    )
    person.did("View")
    person.did("Bought", 1)
    assert person.wait(60_000) == [
        ("soon", "left", "time", 10_001),
        ("lately", "entered", "time", 30_002),
        ("half", "entered", "time", 30_002),
    ]


def test_case_5_a_raised_threshold_moves_old_members_out():
    person = Person(program(s=view()))
    person.did()
    raised = Program([segment(view((">=", 2)), version=2)])
    assert person.redefine(raised, 5) == [("s", "left", "definition", 5)]
    assert person.record.leaves == {}
    assert person.tally.rows() == {}
    person.did(at=6)
    assert person.did(at=7) == [("s", "entered", "event", 7)]


def test_case_5_an_added_window_starts_from_an_empty_state():
    person = Person(program(s=view()))
    person.did()
    assert person.redefine(program(s=view(window="10ms"))) == [("s", "left", "definition", 0)]
    assert person.deadline is None
    # Back-fill applies the history to the new leaf.
    apply_event(person.record, Happening(), person.program)
    assert person.redefine(person.program) == [("s", "entered", "definition", 0)]
    assert person.deadline == 11


@pytest.mark.parametrize("archived", [True, False])
def test_case_5_a_deleted_segment_loses_its_members(archived):
    person = Person(program(s=view(), kept=view((">=", 1), "10ms")))
    person.did()
    rest = [segment(view((">=", 1), "10ms"), "kept")]
    if archived:
        rest.append(segment(view(), "s", version=2, archived=True))
    assert person.redefine(Program(rest)) == [("s", "left", "definition", 0)]
    assert len(person.record.leaves) == 1
    assert set(memberships(person.record)) == {"kept"}
    assert {key[0] for key in person.tally.rows()} == {"kept"}


def test_case_5_a_deleted_segment_ends_by_definition_whatever_made_us_look():
    person = Person(program(s=view(window="10ms"), kept=view(window="20ms")))
    person.did()
    person.program = program(kept=view(window="20ms"))
    assert person.wait(11) == [("s", "left", "definition", 11)]


def test_case_5_recomputing_with_no_change_emits_nothing_and_writes_nothing():
    person = Person(program(s=view(window="10ms"), none=view(("=", 0))))
    person.did()
    record = Record.decode(person.record.encode())
    for cause in ("definition", "time", "event", "merge"):
        assert evaluate(record, person.program, T, cause, full=cause == "definition") == []
    assert not record.dirty
    assert record.encode() == person.record.encode()


def test_case_5_an_edit_that_keeps_the_condition_keeps_members_and_takes_the_version():
    person = Person(program(s=view()))
    person.did()
    assert person.redefine(Program([segment(view(), version=7)]), 5) == []
    assert person.record.segments["s"].version == 7
    assert person.record.segments["s"].since == T


def test_case_5_a_new_segment_takes_in_whom_it_holds_for():
    person = Person(program())
    person.did()
    assert person.redefine(program(s=view(("=", 0)))) == [("s", "entered", "definition", 0)]


def test_sources_and_channels_are_counted_apart():
    person = Person(program(s=view((">=", 2))))
    person.did(at=0)
    assert person.did(at=1, source="app", channel="Mobile") == [("s", "entered", "event", 1)]
    assert person.scopes == {"*"}
    person.did(at=2, source="crm", channel="Web")
    assert person.scopes == {"*", "c:Web"}
    person.did(at=3)
    assert person.scopes == {"*", "c:Web", "s:web"}


def test_a_source_filter_intersects_with_the_scope():
    person = Person(program(s=view(source="web")))
    person.did(at=0, source="app", channel="Mobile")
    assert person.scopes == set()
    person.did(at=1)
    assert person.scopes == {"*", "s:web", "c:Web"}


def test_not_is_over_the_customers_seen_there():
    person = Person(program(s={"not": view()}))
    person.did("Buy", at=0)
    assert person.scopes == {"*", "s:web", "c:Web"}
    person.did("View", at=1)
    assert person.scopes == set()
    assert person.did("Buy", at=2, source="app", channel="Mobile") == []
    assert person.scopes == {"s:app", "c:Mobile"}


def test_counts_move_when_only_a_scope_or_the_identity_changes():
    person = Person(program(s=view()))
    person.did(at=0)
    person.tally.take()
    assert person.did(at=1, source="app", channel="Mobile") == []
    assert person.tally.take() == {("s", "app", "*"): (1, 0), ("s", "*", "Mobile"): (1, 0)}
    assert person.did("Identified", at=2, type="identify", user_id="7") == []
    assert set(person.tally.take().values()) == {(1, 1)}
    assert len(person.tally.rows()) == 5


def test_equal_message_ids_of_different_sources_are_different_events():
    person = Person(program(s=view((">=", 2))))
    person.did(at=0, id="m")
    person.did(at=0, id="m")
    assert person.scopes == set()
    person.did(at=0, id="m", source="app", channel="Web")
    assert person.scopes == {"*", "c:Web"}


def test_an_event_names_the_cause_only_of_what_it_touched():
    compiled = program(a=view(window="10ms"), b={"event": "Buy"})
    record = Record("acme|a|1", "acme", T)
    apply_event(record, Happening(), compiled)
    (entered,) = evaluate(record, compiled, T, "event", "m1")
    assert (entered.cause, entered.event, entered.at, entered.version) == ("event", "m1", T, 1)
    # The timer is overdue and nobody looked: the exit is by time all the same.
    apply_event(record, Happening("Buy", T + 20, "m2"), compiled)
    changes = {c.segment: (c.kind, c.cause, c.event) for c in evaluate(record, compiled, T + 20, "event", "m2")}
    assert changes == {"a": ("left", "time", None), "b": ("entered", "event", "m2")}


def test_a_customer_who_keeps_coming_does_not_move_the_timer():
    person = Person(program(s=view(window="10ms")))
    person.did(at=0)
    for at in range(1, 11):
        person.did(at=at)
        assert person.deadline == 11
    assert person.wait(11) == []
    assert person.deadline == 21


def test_release_takes_a_record_out_of_the_counts():
    person = Person(program(s=view(window="10ms"), none=view(("=", 0)), web=view((">=", 2), source="web")))
    person.did(at=0, user_id="7")
    changes = release(person.record, T + 5, "merge")
    assert [(c.segment, c.kind, c.cause, c.scopes_after) for c in changes] == [("s", "left", "merge", ())]
    person._count(changes)
    assert person.tally.rows() == {}
    assert person.record.segments == {}
    assert person.deadline is None


def test_a_record_without_events_is_in_no_segment():
    record = Record("acme|a|1", "acme", T)
    assert evaluate(record, program(s=view(("=", 0))), T, "event") == []
    assert record.segments == {}
