"""What one event does to a customer's record."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, MutableMapping
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from pipeline.customers.record import Record, is_identified
from pipeline.models.event import identifier
from pipeline.models.trait import COMPUTED
from pipeline.segments.compile import Program
from pipeline.segments.leaf import Buckets, Leaf, Matcher, Pair

__all__ = [
    "MAX_IDENTIFIERS",
    "MAX_TRAITS",
    "MAX_TRAIT_BYTES",
    "Event",
    "Happened",
    "add_identifier",
    "apply_event",
    "remember",
]

# A record must stay far below the largest message of a topic, whatever is sent under one identifier
# ("undefined" is a common user id).
MAX_IDENTIFIERS = 1000
MAX_TRAITS = 200
MAX_TRAIT_BYTES = 2048
#: Longer message ids stand in pairs as a hash; a UUID is kept as it is.
_LONGEST_ID = 36


class Happened(Protocol):
    """What leaves look at of an event."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def channel(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def time(self) -> int: ...
    @property
    def properties(self) -> dict[str, Any] | None: ...


class Event(Happened, Protocol):
    """What is read of a `models.event.Event`, however it was decoded."""

    @property
    def type(self) -> str: ...
    @property
    def user_id(self) -> str | None: ...
    @property
    def anonymous_id(self) -> str | None: ...
    @property
    def email(self) -> str | None: ...
    @property
    def phone(self) -> str | None: ...
    @property
    def traits(self) -> dict[str, Any] | None: ...


def apply_event(record: Record, event: Event, program: Program) -> None:
    """Take ``event`` into ``record``: leaves, origins, first and last seen, identifiers, traits.

    Applying an event again, or events in another order, gives the same leaves and traits; of traits set at the same
    millisecond the last applied stays. Memberships are not looked at: `evaluate` follows, once per event or per batch.

    An anonymous id beside a user id is only a claim (it may belong to another user already): it joins the record by
    `merge` or `add_identifier`, when the claim is granted.
    """
    record.dirty = True
    time = event.time
    if time > record.last_seen:
        record.last_seen = time
    if time < record.first_seen:
        record.first_seen = time
    origin = f"{event.source}|{event.channel}"
    if origin not in record.origins:
        insort(record.origins, origin)
        record.stale = True
    _identify(record, event, program)
    matching = program.matching(event.name, event.source, event.channel, event.properties)
    if matching:
        for leaf in remember(record.leaves, matching, origin, event):
            for segment in leaf.segments:
                record.touched[segment.id] = segment


def remember(
    leaves: MutableMapping[str, Buckets], matching: Iterable[Matcher], origin: str, event: Happened
) -> list[Leaf]:
    """Keep an event's pairs of the leaves whose matchers count it; the leaves that this changes."""
    time, message_id = event.time, event.id
    if len(message_id) > _LONGEST_ID:
        message_id = blake2b(message_id.encode(), digest_size=16).hexdigest()
    pair = (time, message_id)
    changed: list[Leaf] = []
    for matcher in matching:
        made = pair if matcher.make is None else matcher.make(time, message_id, event.properties)
        if made is not None and _remember(leaves, matcher.leaf, origin, made):
            changed.append(matcher.leaf)
    return changed


def add_identifier(record: Record, key: str) -> None:
    """The customer is known under the identifier ``key`` too; beyond `MAX_IDENTIFIERS` it is not listed."""
    if key in record.identifiers or len(record.identifiers) >= MAX_IDENTIFIERS:
        return
    record.identifiers.append(key)
    record.dirty = True
    if not record.identified and is_identified([key]):
        record.identified = record.stale = True


def _identify(record: Record, event: Event, program: Program) -> None:
    partner = record.partner
    if event.user_id:
        add_identifier(record, identifier(partner, "u", event.user_id))
    elif event.anonymous_id:
        add_identifier(record, identifier(partner, "a", event.anonymous_id))
    traits = event.traits if event.type == "identify" else None
    if traits:
        for name, value in traits.items():
            _set_trait(record, name, value, event.time, program)
    email, phone = event.email, event.phone
    if traits:
        email = email or _text(traits.get("email"))
        phone = phone or _text(traits.get("phone"))
    if email:
        add_identifier(record, identifier(partner, "e", email))
        _set_trait(record, "email", email, event.time, program)
    if phone:
        add_identifier(record, identifier(partner, "p", phone))
        _set_trait(record, "phone", phone, event.time, program)


def _text(value: Any) -> str | None:
    return value if type(value) is str else None


def _set_trait(record: Record, name: str, value: Any, time: int, program: Program) -> None:
    """The newest value of a trait stays; what would make the record grow without bound is left out."""
    # What is computed is ours, and a key with a dot in it would be found before it.
    if time < record.trait_times.get(name, time) or name.partition(".")[0] == COMPUTED:
        return
    if name not in record.traits and len(record.traits) >= MAX_TRAITS:
        return
    if len(name) + len(msgspec.json.encode(value)) > MAX_TRAIT_BYTES:
        return
    record.traits[name] = value
    record.trait_times[name] = time
    for segment in program.by_trait.get(name, ()):
        record.touched[segment.id] = segment


def _remember(leaves: MutableMapping[str, Buckets], leaf: Leaf, origin: str, pair: Pair) -> bool:
    """Put ``pair`` among the leaf's newest (or oldest) k of ``origin``; False if that changes nothing."""
    k = leaf.k
    if not k:
        return False
    if leaf.oldest:
        return _remember_oldest(leaves, leaf, origin, pair)
    buckets = leaves.get(leaf.id)
    if buckets is None:
        leaves[leaf.id] = {origin: [pair]}
        return True
    pairs = buckets.get(origin)
    if pairs is None:
        buckets[origin] = [pair]
        return True
    at = 0
    if pair <= pairs[0]:
        low, high = 0, len(pairs)
        while low < high:
            middle = (low + high) // 2
            if pairs[middle] > pair:
                low = middle + 1
            else:
                high = middle
        at = low
        if at >= k or (at < len(pairs) and pairs[at] == pair):
            return False
    pairs.insert(at, pair)
    if len(pairs) > k:
        del pairs[k:]
    return True


def _remember_oldest(leaves: MutableMapping[str, Buckets], leaf: Leaf, origin: str, pair: Pair) -> bool:
    buckets = leaves.setdefault(leaf.id, {})
    before = buckets.get(origin, [])
    after = sorted({*before, pair}, reverse=True)[-leaf.k :]
    buckets[origin] = after
    return after != before
