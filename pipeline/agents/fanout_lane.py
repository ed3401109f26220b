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
from pipeline.agents.numbers import Numbers
from pipeline.agents.programs import Compiled, Programs
from pipeline.agents.tables import (
    CUSTOMERS,
    DAY_MS,
    SEEN,
    STATE,
    STEP,
    TIMERS,
    redirect,
    redirected,
    seen_digest,
)
from pipeline.control.log import ControlLog
from pipeline.customers.apply import add_identifier, apply_event
from pipeline.customers.contacts import claim_contacts, is_contact
from pipeline.customers.evaluate import advance, evaluate, release
from pipeline.customers.merge import join_past, merge
from pipeline.customers.past import Leaves, needed_from
from pipeline.customers.record import Record
from pipeline.dispatch.rules import to_dispatch
from pipeline.events.facts import show_facts
from pipeline.models.event import NOBODYS, TRANSIENT, WATERMARK_KEY, Event, identifier
from pipeline.models.fast import struct_for
from pipeline.segments.change import Change
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


class _Held:
    """A record in hand during a transaction, and the timer that stands for it in the table."""

    __slots__ = ("record", "timer")

    def __init__(self, record: Record, deadline: int | None) -> None:
        self.record = record
        self.timer = deadline


class FanoutLane:
    """The processor of one fan-out lane; see `pipeline.stream.lane.Processor`."""

    def __init__(self, number: int, lanes: int, control: ControlLog, programs: Programs, backfill: Backfill) -> None:
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
        #: Of whom the past is being read, and for which segments.
        self._filling: tuple[str, dict[str, int]] = "", {}
        self._seen = Seen(STATE, prefix=SEEN, bucket_ms=DAY_MS)
        self._timers = Timers(TIMERS)
        self._claimed: set[tuple[str, str]] = set()
        self._held: dict[bytes, _Held] = {}

    def topics(self) -> set[str]:
        """`events` and `moves`."""
        return self._topics

    def reset(self) -> None:
        """Forget all; the next call reads it back from the tables."""
        self._loaded = False
        self._held.clear()
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
        self._loaded = True

    # -- records ---------------------------------------------------------------------------------------------

    async def process(self, batches: Sequence[Batch], txn: Transaction) -> None:
        """Apply events, watermarks and moves in order; the control log is followed first (decision 7)."""
        self._load(txn)
        for batch in batches:
            for at in range(0, len(batch.records), _CHUNK):
                await self._apply(batch.records[at : at + _CHUNK], batch.topic == "moves", txn)
                self._put_records(txn)
        self._write(txn)

    async def _apply(self, records: Sequence[KafkaRecord], moves: bool, txn: Transaction) -> None:
        """A part of a batch of `events`, or of `moves`."""
        decoded: list[Any] = []
        ids: list[tuple[bytes, int]] = []
        needed = -1
        for record in records:
            if moves:
                item = _loads(record.value or b"")
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
        keys = [item["to"].encode() for item in decoded] if moves else [record.key for record in records if record.key]
        await asyncio.gather(txn.load(CUSTOMERS, keys), self._seen.look(txn, ids))
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
        if not self._seen.first(txn, *seen):
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
        held = self._hold(key, txn, create=event)
        if isinstance(held, str):
            move = {"kind": "event", "to": held, "by": key.decode(), "event": msgspec.Raw(raw)}
            txn.route("moves", held.encode(), _encode(move))
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
        for rule in compiled.rules.match(event.name, event.properties):
            self._dispatch(rule, _loads(full), record, event.received, txn)
        self._changed(record, changes, compiled, txn)
        if event.user_id:
            if event.anonymous_id:
                self._claim(record, event, txn)
            if event.email or event.phone:
                for contact in claim_contacts(record, event):
                    self._ask(contact, record.id, txn)

    # -- identity --------------------------------------------------------------------------------------------

    def _ask(self, identifier: str, user: str, txn: Transaction) -> None:
        """Ask the lane of ``identifier`` for the record under it."""
        txn.route("moves", identifier.encode(), _encode({"kind": "claim", "to": identifier, "by": user}))

    def _claim(self, record: Record, event: Any, txn: Transaction) -> None:
        """Ask for the anonymous id's record, the first time it is seen beside this user."""
        anonymous = identifier(event.partner, "a", event.anonymous_id)
        pair = (record.id, anonymous)
        if anonymous in record.identifiers or pair in self._claimed:
            return
        if len(self._claimed) >= _CLAIMS:
            self._claimed.clear()
        self._claimed.add(pair)
        self._ask(anonymous, record.id, txn)

    def _move(self, move: dict[str, Any], txn: Transaction) -> None:
        to: str = move["to"]
        key = to.encode()
        if move["kind"] == "claim":
            self._hand_over(key, move["by"], txn)
            return
        if move["kind"] == "event":
            raw = _encode(move["event"])
            self._take(key, raw, msgspec.convert(move["event"], _EventStruct), txn)
            return
        if move["kind"] == "past":
            self._join(to, msgspec.convert(move["leaves"], Leaves), move["control"], txn)
            return
        held = self._hold(key, txn, create=None)
        if isinstance(held, str):
            txn.route("moves", held.encode(), _encode(move | {"to": held}))
            return
        record = held.record
        compiled = self._programs.of(record.partner)
        add_identifier(record, move["by"])
        if move["customer"] is not None:
            merge(record, Record.decode(_encode(move["customer"])), compiled.program)
        dormant = self._definitions.dormant(record.partner)
        changes = evaluate(record, compiled.program, self._clock, "merge", dormant=dormant)
        self._changed(record, changes, compiled, txn)

    def _join(self, to: str, leaves: Leaves, control: int, txn: Transaction) -> None:
        """What the past says of a customer, who may be another by now, or gone. ``control``: what the leaves are of."""
        key = to.encode()
        if key not in self._held and txn.get(CUSTOMERS, key) is None:
            return
        held = self._hold(key, txn, create=None)
        if isinstance(held, str):
            move = {"kind": "past", "to": held, "by": to, "leaves": leaves, "control": control}
            txn.route("moves", held.encode(), _encode(move))
            return
        record = held.record
        compiled = self._programs.of(record.partner)
        dormant = self._definitions.dormant(record.partner)
        self._changed(record, advance(record, compiled.program, self._clock, dormant), compiled, txn)
        if join_past(record, leaves, compiled.program) - dormant:
            changes = evaluate(record, compiled.program, self._clock, "back-fill", dormant=dormant)
            self._changed(record, changes, compiled, txn)

    def _hand_over(self, key: bytes, user: str, txn: Transaction) -> None:
        """An anonymous id, an e-mail or a phone binds to the first user that claims it, and to no second (decision 5).

        So two users never become one by what they share: the second keeps its own record, and the number stays where
        it is.
        """
        customer: Any = None
        value = txn.get(CUSTOMERS, key)
        if key not in self._held and value is not None and redirected(value) is not None:
            return
        if key in self._held or value is not None:
            held = self._hold(key, txn, create=None)
            assert isinstance(held, _Held)
            record = held.record
            compiled = self._programs.of(record.partner)
            dormant = self._definitions.dormant(record.partner)
            self._changed(record, advance(record, compiled.program, self._clock, dormant), compiled, txn)
            self._changed(record, release(record, self._clock, "merge"), compiled, txn)
            customer = msgspec.Raw(record.encode())
            if held.timer is not None:
                self._timers.cancel(txn, held.timer, key)
            del self._held[key]
        txn.put(CUSTOMERS, key, redirect(user))
        if customer is None and is_contact(key.decode()):
            return  # nothing to bring, and who claims a contact has it among its identifiers already
        # Whoever merges it must know the leaves that it has.
        offset = self._programs.offset
        move = {"kind": "record", "to": user, "by": key.decode(), "customer": customer, "control": offset}
        txn.route("moves", user.encode(), _encode(move))

    def _hold(self, key: bytes, txn: Transaction, *, create: Any) -> _Held | str:
        """The record under ``key``, loaded once a transaction; or, where it redirects, the key to go to."""
        held = self._held.get(key)
        if held is not None:
            return held
        value = txn.get(CUSTOMERS, key)
        if value is None:
            name = key.decode()
            time = create.time if create is not None else self._clock
            held = _Held(Record(name, name.partition("|")[0], time), None)
        else:
            to = redirected(value)
            if to is not None:
                return to
            record = Record.decode(value)
            held = _Held(record, record.deadline)
        self._held[key] = held
        return held

    # -- consequences ----------------------------------------------------------------------------------------

    def _changed(self, record: Record, changes: Iterable[Change], compiled: Compiled, txn: Transaction) -> None:
        """Count changes; publish and dispatch those that are transitions."""
        for change in changes:
            self._numbers.apply(compiled.partner, change)
            if change.kind is None:
                continue
            transition = {
                "id": f"{compiled.partner}:{change.segment}:{change.version}:{record.id}:{change.at}:{change.kind}",
                "kind": change.kind,
                "partner": compiled.partner,
                "segment": change.segment,
                "version": change.version,
                "customer": record.id,
                "cause": change.cause,
                "event": change.event,
                "at": change.at,
                "identifiers": record.identifiers,
                "traits": record.traits,
            }
            txn.send("segments.transitions", record.id.encode(), _encode(transition))
            name = "Segment Entered" if change.kind == "entered" else "Segment Left"
            properties = {"segment": change.segment, "cause": change.cause}
            for rule in compiled.rules.match(name, properties):
                event = {
                    "id": transition["id"],
                    "partner": compiled.partner,
                    "source": "segments",
                    "channel": "Segments",
                    "type": "track",
                    "name": name,
                    "time": change.at,
                    "received": change.at,
                    "properties": properties,
                    "customer": record.id,
                    "control": self._programs.offset,
                }
                self._dispatch(rule, event, record, change.at, txn)

    def _dispatch(self, rule: Any, event: dict[str, Any], record: Record, now: int, txn: Transaction) -> None:
        customer = {"id": record.id, "traits": record.traits} | _contacts(record)
        txn.send(rule.topic, record.id.encode(), _encode(to_dispatch(rule, event, customer, now)))

    def _write(self, txn: Transaction) -> None:
        """Put what is in hand into the tables, and the counts that changed onto their topic."""
        self._put_records(txn)
        self._numbers.write(self._clock, txn)
        if txn.dirty and not self._late(txn):
            self._numbers.tell(self._clock, self._watermarks, txn)

    def _late(self, txn: Transaction) -> bool:
        """Whether somebody is still to leave or enter by time: until then the counts are not those of the clock."""
        return next(iter(self._timers.due(txn, self._clock)), None) is not None

    def _put_records(self, txn: Transaction) -> None:
        for key, held in self._held.items():
            record = held.record
            if not record.dirty:
                continue
            txn.put(CUSTOMERS, key, record.encode())
            if record.deadline != held.timer:
                if held.timer is not None:
                    self._timers.cancel(txn, held.timer, key)
                if record.deadline is not None:
                    self._timers.set(txn, record.deadline, key)
        self._held.clear()

    # -- time ------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int, txn: Transaction) -> bool:
        """Timers that are due, a step of a back-fill and of a sweep, old message ids, and the clock once a second."""
        self._load(txn)
        more = self._fill(txn)
        self._follow_control(txn)
        more = self._fire(txn) or more
        more = self._definitions.sweep(txn, lambda key: self._evaluate_whole(key, txn)) or more
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
            program = self._programs.of(partner).program
            leaves = {leaf.id: leaf for name in segments for leaf in program.segments[name].leaves if leaf.matchers}
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
            value = txn.get(CUSTOMERS, key)
            if value is None or redirected(value) is not None:
                continue
            held = self._hold(key, txn, create=None)
            if isinstance(held, str) or held.record.deadline != deadline:
                continue
            held.timer = None
            record = held.record
            compiled = self._programs.of(record.partner)
            dormant = self._definitions.dormant(record.partner)
            self._changed(record, advance(record, compiled.program, self._clock, dormant), compiled, txn)
            record.dirty = True
        return False

    def _follow_control(self, txn: Transaction) -> None:
        self._programs.refresh(self._control.state)
        self._definitions.follow(self._clock, txn)

    def _evaluate_whole(self, key: bytes, txn: Transaction) -> None:
        """A customer, by definitions that changed."""
        held = self._hold(key, txn, create=None)
        if isinstance(held, str):
            return
        record = held.record
        compiled = self._programs.of(record.partner)
        dormant = self._definitions.dormant(record.partner)
        changes = advance(record, compiled.program, self._clock, dormant)
        changes += evaluate(record, compiled.program, self._clock, "definition", full=True, dormant=dormant)
        self._changed(record, changes, compiled, txn)


def _contacts(record: Record) -> dict[str, str | None]:
    """The customer's identifiers by kind, the first of each."""
    names = {"u": "user_id", "a": "anonymous_id", "e": "email", "p": "phone"}
    found: dict[str, str | None] = dict.fromkeys(names.values())
    for key in record.identifiers:
        _, kind, value = key.split("|", 2)
        if found[names[kind]] is None:
            found[names[kind]] = value
    return found
