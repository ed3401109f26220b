"""One lane of fan-out: dedup -> identity -> customer -> segments -> rules, in one transaction per batch.

Wiring: what a customer, a segment and a rule are is the domain's; what a transaction is, the engine's.
All state is in tables; what this object remembers is a copy of them, forgotten by `reset`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pipeline.agents.backfill import Backfill
from pipeline.agents.definitions import Definitions
from pipeline.agents.fences import Fences
from pipeline.agents.in_hand import Held, InHand
from pipeline.agents.mailings import Mailings
from pipeline.agents.numbers import Numbers
from pipeline.agents.programs import Compiled, Programs
from pipeline.agents.tables import (
    CUSTOMERS,
    DAY_MS,
    SEEN,
    STATE,
    STEP,
    TIMERS,
    Redirected,
    redirect,
    seen_digest,
)
from pipeline.agents.transitions import Transitions
from pipeline.control.log import ControlLog
from pipeline.customers.apply import add_identifier, apply_event
from pipeline.customers.contacts import claim_contacts, is_contact
from pipeline.customers.cut import cut, cut_leaves, drop_contacts
from pipeline.customers.evaluate import advance, evaluate, release
from pipeline.customers.merge import join_past, merge
from pipeline.customers.past import Leaves, needed_from
from pipeline.customers.record import Record
from pipeline.dispatch.filter import variables
from pipeline.dispatch.mailing import CompiledMailing
from pipeline.dispatch.rules import customer_of
from pipeline.events.facts import show_facts
from pipeline.models.event import NOBODYS, TRANSIENT, WATERMARK_KEY, Event, identifier
from pipeline.models.fast import struct_for
from pipeline.segments.change import Cause, Change
from pipeline.stream.reader import Batch
from pipeline.stream.reader import Record as KafkaRecord
from pipeline.stream.seen import Seen
from pipeline.stream.timers import Timers
from pipeline.stream.transaction import Transaction

__all__ = ["FanoutLane"]

log = logging.getLogger(__name__)

#: How often the clock and progress are told where nothing else is.
_CLOCK_EVERY_MS = 1000
_CLAIMS = 100_000
#: Records that are decoded, looked up and applied together: few enough to stay in the processor's cache, a quarter
#: faster than a whole batch (measured without Kafka, 60,000 customers at random: 45 us an event, 35 so).
_CHUNK = 256

_EventStruct: Any = struct_for(Event)
_event = msgspec.json.Decoder(_EventStruct).decode
_loads = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class FanoutLane:
    """The processor of one fan-out lane; see `pipeline.stream.lane.Processor`."""

    def __init__(
        self,
        number: int,
        lanes: int,
        control: ControlLog,
        programs: Programs,
        backfill: Backfill,
        fences: Fences,
        join_ms: int,
    ) -> None:
        """``join_ms``: so much of what a visitor did before it was known whose it is becomes that customer's."""
        self.number = number
        self._lanes = lanes
        self._control = control
        self._programs = programs
        self._topics = {"events", "moves"}
        self._loaded = False
        self._clock = 0
        self._progressed = 0
        self._watermarks: dict[str, int] = {}
        self._numbers = Numbers(number, programs)
        self._definitions = Definitions(number, programs)
        self._backfill = backfill
        self._fences = fences
        self._join_ms = join_ms
        self._transitions = Transitions(programs)
        self._mailings = Mailings(number, lanes, programs)
        #: Of whom the past is being read, and for which segments.
        self._filling: tuple[str, dict[str, int]] = "", {}
        self._seen = Seen(STATE, prefix=SEEN, bucket_ms=DAY_MS)
        self._timers = Timers(TIMERS)
        self._claimed: set[tuple[str, str]] = set()
        self._hand = InHand(self._timers)

    def topics(self) -> set[str]:
        """`events` and `moves`."""
        return self._topics

    def reset(self) -> None:
        """Forget all; the next call reads it back from the tables."""
        self._loaded = False
        self._hand.clear()
        self._seen.reset()
        self._backfill.stop()
        # A claim in a transaction that was dropped was never made.
        self._claimed.clear()

    def _load(self, txn: Transaction) -> None:
        if self._loaded:
            return
        stored = self._numbers.load(txn)
        self._clock = self._progressed = stored.get("clock", 0)
        self._watermarks = dict(stored.get("watermarks", {}))
        self._definitions.load(txn)
        self._fences.load(txn)
        self._mailings.load(txn)
        self._loaded = True

    # -- records ---------------------------------------------------------------------------------------------

    async def process(self, batches: Sequence[Batch], txn: Transaction) -> None:
        """Apply events, watermarks and moves in order; the control log is followed first (decision 7)."""
        self._load(txn)
        for batch in batches:
            for at in range(0, len(batch.records), _CHUNK):
                await self._apply(batch.records[at : at + _CHUNK], batch.topic == "moves", txn)
                self._hand.put(txn)
        self._write(txn)

    async def _apply(self, records: Sequence[KafkaRecord], moves: bool, txn: Transaction) -> None:
        """A part of a batch of `events`, or of `moves`."""
        decoded: list[Any] = []
        ids: list[tuple[bytes, int]] = []
        needed = -1
        keys: set[str] = set()
        for record in records:
            if moves:
                item = _loads(record.value or b"")
                if item["kind"] in ("erase", "fence"):
                    keys.add(item["key"])
                needed = max(needed, item["event"]["control"] if item["kind"] == "event" else item.get("control", -1))
            elif record.key == WATERMARK_KEY:
                item = None
            else:
                item = _event(record.value or b"")
                needed = max(needed, item.control)
                ids.append((seen_digest(item.partner, item.source, item.id), item.received))
            decoded.append(item)
        if needed > self._control.state.offset:
            await self._control.wait_for(needed, 30)
        self._follow_control(txn)
        await self._fences.ready(*keys)
        whose = [item["to"].encode() for item in decoded] if moves else [record.key for record in records if record.key]
        await asyncio.gather(txn.load(CUSTOMERS, whose), self._seen.look(txn, ids))
        seen = iter(ids)
        for record, item in zip(records, decoded, strict=True):
            if moves:
                self._move(item, txn)
            elif item is None:
                self._watermark(_loads(record.value or b"")["received"])
            else:
                self._event(record, item, next(seen), txn)

    def _watermark(self, received: dict[str, int]) -> None:
        """Decision 8: the clock is the smallest over lanes, and never goes backwards."""
        for lane, moment in received.items():
            if moment > self._watermarks.get(lane, 0):
                self._watermarks[lane] = moment
        if len(self._watermarks) >= self._lanes:
            self._clock = max(self._clock, min(self._watermarks.values()))

    def _event(self, record: KafkaRecord, event: Any, seen: tuple[bytes, int], txn: Transaction) -> None:
        """Dedup on (source, message id): an id is known on its day and the next, so for at least 24 h."""
        if not self._seen.first(txn, *seen) or self._fences.hold(record.key or b"", event.time, txn):
            return
        if event.flags and not NOBODYS.isdisjoint(event.flags):
            if TRANSIENT not in event.flags:
                txn.send("history", record.key, record.value)
            return
        if not self._clock:
            # A lane that has never been told the time begins at its first event; nothing older is known here.
            self._clock = event.received
        self._take(record.key or b"", record.value or b"", event, txn)

    def _take(self, key: bytes, raw: bytes, event: Any, txn: Transaction) -> None:
        held = self._hand.hold(key, txn, event.time)
        if isinstance(held, Redirected):
            if event.time < held.since:
                txn.send("history", key, raw[:-1] + b',"customer":' + _encode(key.decode()) + b"}")
                return
            move = {"kind": "event", "to": held.to, "by": key.decode(), "event": msgspec.Raw(raw)}
            txn.route("moves", held.to.encode(), _encode(move))
            return
        record = held.record
        compiled = self._programs.of(event.partner)
        show_facts(event)
        dormant = self._definitions.dormant(event.partner)
        self._changed(record, advance(record, compiled.program, self._clock, dormant), compiled, txn)
        apply_event(record, event, compiled.program)
        changes = evaluate(record, compiled.program, self._clock, "event", event.id, dormant=dormant)
        # Splicing spares a decode and an encode of parts that nobody here looks at.
        full = raw[:-1] + b',"customer":' + _encode(record.id) + b"}"
        if TRANSIENT not in event.flags:
            txn.send("history", record.id.encode(), full)
        for rule in compiled.rules.match(
            event.name, event.properties, lambda: variables(event, event.properties, customer_of(record))
        ):
            self._transitions.dispatch(rule, _loads(full), record, event.received, txn)
        self._changed(record, changes, compiled, txn)
        if event.user_id:
            if event.anonymous_id:
                self._claim(record, event, txn)
            if event.email or event.phone:
                for contact in claim_contacts(record, event):
                    self._ask(contact, record.id, 0, txn)

    # -- identity --------------------------------------------------------------------------------------------

    def _ask(self, identifier: str, user: str, since: int, txn: Transaction) -> None:
        """Ask the lane of ``identifier`` for the record under it, from ``since`` (ms) on."""
        move = {"kind": "claim", "to": identifier, "by": user, "since": since}
        txn.route("moves", identifier.encode(), _encode(move))

    def _claim(self, record: Record, event: Any, txn: Transaction) -> None:
        """Ask for the anonymous id's record, the first time it is seen beside this user."""
        anonymous = identifier(event.partner, "a", event.anonymous_id)
        pair = (record.id, anonymous)
        if anonymous in record.identifiers or pair in self._claimed:
            return
        if len(self._claimed) >= _CLAIMS:
            self._claimed.clear()
        self._claimed.add(pair)
        self._ask(anonymous, record.id, max(0, event.time - self._join_ms), txn)

    def _move(self, move: dict[str, Any], txn: Transaction) -> None:
        to: str = move["to"]
        key = to.encode()
        if move["kind"] == "claim":
            self._hand_over(key, move["by"], move.get("since", 0), txn)
        elif move["kind"] == "event":
            event = msgspec.convert(move["event"], _EventStruct)
            if not self._fences.hold(key, event.time, txn):
                self._take(key, _encode(move["event"]), event, txn)
        elif move["kind"] == "past":
            self._join(to, msgspec.convert(move["leaves"], Leaves), move["control"], txn)
        elif move["kind"] == "erase":
            self._erase(move, txn)
        elif move["kind"] == "fence":
            self._fence(move, txn)
        else:
            self._receive(move, txn)

    def _receive(self, move: dict[str, Any], txn: Transaction) -> None:
        """The record of an identifier that was claimed; the claimant may be another by now, or erased."""
        key = move["to"].encode()
        other = None if move["customer"] is None else Record.decode(_encode(move["customer"]))
        fenced = self._fences.at(key, txn)
        if fenced >= 0 and self._hand.look(key, txn) is None and (other is None or other.last_seen <= fenced):
            self._tell_fence(move["by"], move["to"], fenced, self._fences.key, txn)
            return
        if other is not None and other.first_seen <= fenced:
            cut(other, fenced + 1)
            drop_contacts(other)
        held = self._hand.hold(key, txn, self._clock)
        if isinstance(held, Redirected):
            txn.route("moves", held.to.encode(), _encode(move | {"to": held.to}))
            return
        record = held.record
        compiled = self._programs.of(record.partner)
        add_identifier(record, move["by"])
        if other is not None:
            merge(record, other, compiled.program)
        dormant = self._definitions.dormant(record.partner)
        changes = evaluate(record, compiled.program, self._clock, "merge", dormant=dormant)
        self._changed(record, changes, compiled, txn)

    def _join(self, to: str, leaves: Leaves, control: int, txn: Transaction) -> None:
        """What the past says of a customer, who may be another by now, or gone. ``control``: what the leaves are of."""
        key = to.encode()
        held = self._hand.look(key, txn)
        if held is None:
            return
        if isinstance(held, Redirected):
            young = cut_leaves(leaves, held.since)
            move = {"kind": "past", "to": held.to, "by": to, "leaves": young, "control": control}
            txn.route("moves", held.to.encode(), _encode(move))
            return
        record = held.record
        compiled = self._programs.of(record.partner)
        dormant = self._definitions.dormant(record.partner)
        self._changed(record, advance(record, compiled.program, self._clock, dormant), compiled, txn)
        # What is older than the customer was somebody's who was erased.
        if join_past(record, cut_leaves(leaves, record.first_seen), compiled.program) - dormant:
            changes = evaluate(record, compiled.program, self._clock, "back-fill", dormant=dormant)
            self._changed(record, changes, compiled, txn)

    def _hand_over(self, key: bytes, user: str, since: int, txn: Transaction) -> None:
        """An anonymous id, an e-mail or a phone binds to the first user that claims it, and to no second (decision 5).

        So two users never become one by what they share: the second keeps its own record, and the number stays where
        it is.
        """
        customer: Any = None
        held = self._hand.look(key, txn)
        if isinstance(held, Redirected):
            return
        if held is not None:
            self._let_go(key, held, "merge", txn)
            cut(held.record, since)
            customer = msgspec.Raw(held.record.encode())
        txn.put(CUSTOMERS, key, redirect(user, since))
        if customer is None and is_contact(key.decode()):
            return  # nothing to bring, and who claims a contact has it among its identifiers already
        # Whoever merges it must know the leaves that it has.
        offset = self._programs.offset
        move = {"kind": "record", "to": user, "by": key.decode(), "customer": customer, "control": offset}
        txn.route("moves", user.encode(), _encode(move))

    def _let_go(self, key: bytes, held: Held, cause: Cause, txn: Transaction) -> None:
        """Take a record out of the counts, the timers and what is in hand."""
        record = held.record
        compiled = self._programs.of(record.partner)
        dormant = self._definitions.dormant(record.partner)
        self._changed(record, advance(record, compiled.program, self._clock, dormant), compiled, txn)
        self._changed(record, release(record, self._clock, cause), compiled, txn)
        self._hand.drop(key, txn)

    # -- erasure ---------------------------------------------------------------------------------------------

    def _erase(self, move: dict[str, Any], txn: Transaction) -> None:
        """Forget a customer, and let nothing that it did by now come back, under any of its identifiers."""
        to: str = move["to"]
        key = to.encode()
        at = max(move["at"], self._clock)
        names = [to]
        held = self._hand.look(key, txn)
        if isinstance(held, Redirected):
            txn.route("moves", held.to.encode(), _encode(move | {"to": held.to}))
            return
        if held is not None:
            record = held.record
            at = max(at, record.last_seen)
            self._let_go(key, held, "erasure", txn)
            names = list(dict.fromkeys([to, *record.identifiers, *record.contacts]))
            txn.delete(CUSTOMERS, key)
            # Who comes back claims anew.
            self._claimed.clear()
        self._fences.set(key, at, move["key"], txn)
        for name in names[1:]:
            self._tell_fence(name, to, at, move["key"], txn)
        partner = to.partition("|")[0]
        erasure = {
            "id": move["id"],
            "partner": partner,
            "customer": to,
            "identifiers": names,
            "requested": move["at"],
            "at": at,
        }
        txn.send("erasures", f"{partner}|{move['id']}".encode(), _encode(erasure), partition=0)

    def _tell_fence(self, identifier: str, customer: str, at: int, key: str, txn: Transaction) -> None:
        move = {"kind": "fence", "to": identifier, "by": customer, "at": at, "key": key}
        txn.route("moves", identifier.encode(), _encode(move))

    def _fence(self, move: dict[str, Any], txn: Transaction) -> None:
        """What led to one who was erased leads there no more. What is another's, or somebody by itself, stays so."""
        key = move["to"].encode()
        there = self._hand.look(key, txn)
        if there is not None:
            if not isinstance(there, Redirected) or there.to != move["by"]:
                return
            txn.delete(CUSTOMERS, key)
        self._fences.set(key, move["at"], move["key"], txn)

    # -- consequences ----------------------------------------------------------------------------------------

    def _changed(self, record: Record, changes: Iterable[Change], compiled: Compiled, txn: Transaction) -> None:
        """Count changes; publish and dispatch those that are transitions."""
        for change in changes:
            self._numbers.apply(compiled.partner, change)
            self._transitions.tell(record, change, compiled, txn)

    def _write(self, txn: Transaction) -> None:
        """Put what is in hand into the tables, and the counts that changed onto their topic."""
        self._hand.put(txn)
        self._numbers.write(self._clock, txn)
        if txn.dirty and not self._late(txn):
            self._numbers.tell(self._clock, self._watermarks, txn)

    def _late(self, txn: Transaction) -> bool:
        """Whether somebody is still to leave or enter by time: until then the counts are not those of the clock."""
        return next(iter(self._timers.due(txn, self._clock)), None) is not None

    # -- time ------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int, txn: Transaction) -> bool:
        """Timers that are due, a step of back-fill, sweep and mailings, old message ids; the clock once a second."""
        self._load(txn)
        more = self._fill(txn)
        self._follow_control(txn)
        more = self._fire(txn) or more
        more = self._definitions.sweep(txn, lambda key: self._evaluate_whole(key, txn)) or more
        more = self._mail(txn) or more
        more = self._seen.forget(txn, self._clock) or more
        self._write(txn)
        if self._clock - self._progressed >= _CLOCK_EVERY_MS:
            self._progressed = self._clock
            self._definitions.progress(self._clock, self._filling[0], self._backfill.share, txn)
            if not self._late(txn):
                self._numbers.pass_time(self._clock, self._watermarks, txn)
        return more

    def _fill(self, txn: Transaction) -> bool:
        """A step of reading the past for new segments; whether there is more at hand.

        Before the control log is followed: what is new by now was new in a transaction before this one, so all that
        was applied without it is committed, and can be read.
        """
        if self._backfill.idle:
            wanted = self._definitions.unfilled()
            if wanted is None:
                return False
            self._filling = partner, segments = wanted
            known = self._programs.of(partner).definitions
            leaves = {leaf.id: leaf for name in segments for leaf in known[name].leaves if leaf.matchers}
            self._backfill.start(partner, list(leaves.values()), needed_from(leaves.values(), self._clock))
            return False
        found = self._backfill.take(STEP)
        for customer, past in found:
            self._join(customer, past, self._programs.offset, txn)
        if self._backfill.finished:
            assert self._backfill.coverage is not None
            self._definitions.fill(*self._filling, self._backfill.coverage, txn)
            self._backfill.stop()
        return bool(found)

    def _fire(self, txn: Transaction) -> bool:
        """Exits and entries by time (design: segments, "Leaving without an event"), at most `STEP` customers."""
        fired = 0
        for deadline, key in self._timers.due(txn, self._clock):
            if fired >= STEP:
                return True
            fired += 1
            self._timers.cancel(txn, deadline, key)
            held = self._hand.find(key, txn)
            if held is None or held.record.deadline != deadline:
                continue
            held.timer = None
            record = held.record
            compiled = self._programs.of(record.partner)
            dormant = self._definitions.dormant(record.partner)
            self._changed(record, advance(record, compiled.program, self._clock, dormant), compiled, txn)
            record.dirty = True
        return False

    def _mail(self, txn: Transaction) -> bool:
        """A step of the mailings."""

        def hold(key: bytes) -> Record | None:
            held = self._hand.find(key, txn)
            return None if held is None else held.record

        def send(mailing: CompiledMailing, record: Record) -> None:
            event = mailing.event(record.id, self._clock) | {"control": self._programs.offset}
            self._transitions.dispatch(mailing, event, record, self._clock, txn)

        return self._mailings.step(self._clock, txn, self._definitions.settled, hold, send)

    def _follow_control(self, txn: Transaction) -> None:
        self._programs.refresh(self._control.state)
        self._definitions.follow(self._clock, txn)

    def _evaluate_whole(self, key: bytes, txn: Transaction) -> None:
        """A customer, by definitions that changed."""
        held = self._hand.find(key, txn)
        if held is None:
            return
        record = held.record
        compiled = self._programs.of(record.partner)
        dormant = self._definitions.dormant(record.partner)
        changes = advance(record, compiled.program, self._clock, dormant)
        changes += evaluate(record, compiled.program, self._clock, "definition", full=True, dormant=dormant)
        self._changed(record, changes, compiled, txn)
