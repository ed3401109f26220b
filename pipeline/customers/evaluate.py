"""Memberships of a customer at a moment, and the next moment at which time alone may change them."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any, NamedTuple

from pipeline.customers.record import Membership, Record
from pipeline.models.trait import COMPUTED
from pipeline.segments.change import Cause, Change, Kind
from pipeline.segments.compile import CompiledSegment, Program
from pipeline.segments.computed import CompiledTrait, Value
from pipeline.segments.scopes import EVERYWHERE, scopes_of

__all__ = ["advance", "evaluate", "release"]


class Found(NamedTuple):
    """By leaf: what it says of a customer, and the next moment (ms) at which time alone may change that."""

    truths: dict[str, int]
    flips: dict[str, int]


def evaluate(
    record: Record,
    program: Program,
    now: int,
    cause: Cause,
    event_id: str | None = None,
    *,
    full: bool = False,
    dormant: Container[str] = (),
    found: Found | None = None,
) -> list[Change]:
    """Bring memberships and deadline up to ``now`` (the lane's clock, ms); what changed, nothing when nothing did.

    After an event only the segments that it touched are looked at, and the others only if the record is stale (new,
    merged, seen from a new place, newly identified) or its deadline has passed; the result is that of looking at all
    of them. ``full`` (new or edited segments) looks at all and prunes the state of leaves that no segment has any
    more. A membership in a segment that is not in ``program`` ends, by ``definition``. ``dormant``: segments whose past
    is still being read; a membership in one stays what it was. ``found``: takes what was found out of leaves.

    ``record.deadline`` becomes a moment after ``now`` before which time alone changes nothing. It is the exact next
    one when all segments were looked at, and may be early otherwise, so that a customer who keeps coming does not
    move its timer with every event: at a firing that is early nothing changes and the exact one is found.

    Call `advance` before applying an event to a record whose deadline has passed, or the exit and the re-entry that
    the event makes of it collapse into one.
    """
    due = record.deadline is not None and record.deadline <= now
    everything = full or record.stale or due or cause != "event"
    scopes = scopes_of(tuple(record.origins))
    leaves = record.leaves
    changes: list[Change] = []
    if full and (old := [key for key in leaves if key not in program.leaves]):
        for key in old:
            del leaves[key]
        record.dirty = True
    touched: Iterable[Any] = record.touched.values()
    deadline = None if everything else record.deadline
    if everything:
        _drop_unknown(record, program, now, changes)
        touched = _candidates(record, program).values()
    if program.traits:
        touched, flip = _compute(record, program, now, touched, dormant)
        if flip is not None and (deadline is None or flip < deadline):
            deadline = flip
    truths: dict[str, int] = {} if found is None else found.truths
    for segment in touched:
        membership = record.segments.get(segment.id)
        before = membership.scopes if membership else ()
        if segment.id in dormant:
            after = before
        else:
            for leaf in segment.leaves:
                if leaf.id not in truths:
                    truths[leaf.id], flip = leaf.truth(record, scopes, now)
                    if flip is not None:
                        if deadline is None or flip < deadline:
                            deadline = flip
                        if found is not None:
                            found.flips[leaf.id] = flip
            after = scopes.named(segment.holds(truths, scopes.all))
        same = before == after
        if same and (
            membership is None or (membership.version == segment.version and record.counted is record.identified)
        ):
            continue
        by_time = due and cause == "event" and segment.id not in record.touched
        change = _move(record, segment, now, "time" if by_time else cause, None if by_time else event_id, after)
        if not same or record.counted is not record.identified:
            changes.append(change)
    if deadline != record.deadline:
        record.deadline = deadline
        record.dirty = True
    record.counted = record.identified
    record.stale = False
    record.touched = {}
    return changes


def advance(record: Record, program: Program, now: int, dormant: Container[str] = ()) -> list[Change]:
    """Let time pass up to ``now``: evaluate at every deadline on the way, each at its own moment.

    So transitions by time, and the moments they bear, do not depend on when the timer was looked at.
    """
    moment = record.deadline
    if moment is None or moment > now:
        return []
    # A computed trait may alter segments that look at it, so each of its deadlines takes all.
    found = None if program.traits else Found({}, {})
    changes = evaluate(record, program, moment, "time", dormant=dormant, found=found)
    while (moment := record.deadline) is not None and moment <= now:
        if found is None:
            changes += evaluate(record, program, moment, "time", dormant=dormant)
        else:
            _walk(record, program, now, dormant, found, changes)
    return changes


def release(record: Record, now: int, cause: Cause) -> list[Change]:
    """End all memberships: the record leaves this lane's counts (it joins another one, or is erased)."""
    changes: list[Change] = []
    for segment in list(record.segments):
        _end(record, segment, now, cause, changes)
    record.deadline = None
    record.dirty = True
    return changes


def _walk(
    record: Record, program: Program, now: int, dormant: Container[str], found: Found, changes: list[Change]
) -> None:
    """From an evaluation, that ``found`` is of, to ``now``: at each deadline only what is due is looked at.

    Of leaves that are not due nothing changes, so this is what evaluating all of it at every deadline gives; a customer
    who leaves by many deadlines at once, as when a long wait is over, costs a third of that.
    """
    scopes = scopes_of(tuple(record.origins))
    segments = [each for each in _candidates(record, program).values() if isinstance(each, CompiledSegment)]
    segments = [segment for segment in segments if segment.id not in dormant]
    # Of leaves alone: what `holds` puts beside them is of one moment.
    truths = {key: mask for key, mask in found.truths.items() if key in program.leaves}
    flips = found.flips
    while (moment := min(flips.values(), default=None)) is not None and moment <= now:
        due = {key for key, flip in flips.items() if flip == moment}
        for key in due:
            truths[key], flip = program.leaves[key].truth(record, scopes, moment)
            if flip is None:
                del flips[key]
            else:
                flips[key] = flip
        now_true = dict(truths)
        for segment in segments:
            if due.isdisjoint(leaf.id for leaf in segment.leaves):
                continue
            membership = record.segments.get(segment.id)
            after = scopes.named(segment.holds(now_true, scopes.all))
            if after != (membership.scopes if membership else ()):
                changes.append(_move(record, segment, moment, "time", None, after))
    record.deadline = moment
    record.dirty = True


def _compute(
    record: Record,
    program: Program,
    now: int,
    touched: Iterable[CompiledSegment | CompiledTrait],
    dormant: Container[str],
) -> tuple[Iterable[CompiledSegment], int | None]:
    """Bring the computed traits among ``touched`` up to ``now``.

    The segments that are to be looked at then, and the next moment at which time alone may change one of the traits.
    """
    segments: dict[str, CompiledSegment] = {}
    traits: list[CompiledTrait] = []
    for each in touched:
        if isinstance(each, CompiledTrait):
            traits.append(each)
        else:
            segments[each.id] = each
    first: int | None = None
    had = COMPUTED in record.traits
    for trait in traits:
        if trait.id in dormant:
            continue
        value, flip = trait.value(record, now)
        if flip is not None and (first is None or flip < first):
            first = flip
        if _set_computed(record, trait.name, value):
            for segment in program.by_trait.get(f"{COMPUTED}.{trait.name}", ()):
                segments[segment.id] = segment
    if (COMPUTED in record.traits) is not had:
        for segment in program.by_trait.get(COMPUTED, ()):
            segments[segment.id] = segment
    return segments.values(), first


def _set_computed(record: Record, name: str, value: Value | None) -> bool:
    """Whether it was another one."""
    there = _computed(record)
    before = there.get(name)
    if before == value and type(before) is type(value):
        return False
    there = {key: known for key, known in there.items() if key != name}
    if value is not None:
        there[name] = value
    if there:
        record.traits[COMPUTED] = there
    else:
        record.traits.pop(COMPUTED, None)
    record.dirty = True
    return True


def _computed(record: Record) -> dict[str, Any]:
    """What is computed of it. Somebody may have set a trait of this name before it was ours."""
    found = record.traits.get(COMPUTED)
    return found if isinstance(found, dict) else {}


def _candidates(record: Record, program: Program) -> dict[str, CompiledSegment | CompiledTrait]:
    """All that can hold, be left or be computed: with state, without need of state, or with a membership."""
    found: dict[str, CompiledSegment | CompiledTrait] = {}
    for key in record.leaves:
        leaf = program.leaves.get(key)
        if leaf is not None:
            for segment in leaf.segments:
                found[segment.id] = segment
    for segment in program.on_nothing:
        found[segment.id] = segment
    if program.by_trait:
        for name in record.traits:
            for segment in program.by_trait.get(name, ()):
                found[segment.id] = segment
    for key in record.segments:
        found[key] = program.segments[key]
    if program.traits:
        # Of a computation that was edited, what is kept now may be nothing: its old value goes all the same.
        for name in _computed(record):
            found[f"trait:{name}"] = program.traits[f"trait:{name}"]
    return found


def _drop_unknown(record: Record, program: Program, now: int, changes: list[Change]) -> None:
    for segment in [key for key in record.segments if key not in program.segments]:
        _end(record, segment, now, "definition", changes)
    for name in [name for name in _computed(record) if f"trait:{name}" not in program.traits]:
        _set_computed(record, name, None)


def _end(record: Record, segment: str, now: int, cause: Cause, changes: list[Change]) -> None:
    membership = record.segments.pop(segment)
    changes.append(
        Change(
            segment,
            membership.version,
            "left" if EVERYWHERE in membership.scopes else None,
            cause,
            None,
            now,
            membership.scopes,
            (),
            record.counted,
            record.identified,
        )
    )
    record.dirty = True


def _move(
    record: Record,
    segment: CompiledSegment,
    now: int,
    cause: Cause,
    event_id: str | None,
    after: tuple[str, ...],
) -> Change:
    """Write the membership that ``after`` makes, and describe the change."""
    membership = record.segments.get(segment.id)
    before = membership.scopes if membership else ()
    was, is_ = EVERYWHERE in before, EVERYWHERE in after
    if after:
        since = membership.since if membership and was is is_ else now
        record.segments[segment.id] = Membership(segment.version, since, after)
    elif membership:
        del record.segments[segment.id]
    record.dirty = True
    kind: Kind | None = None
    if was is not is_:
        kind = "entered" if is_ else "left"
    return Change(
        segment.id,
        segment.version,
        kind,
        cause,
        event_id,
        now,
        before,
        after,
        record.counted,
        record.identified,
    )
