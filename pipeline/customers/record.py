"""The working copy of a customer: what fan-out decodes, changes and writes back.

On the wire it is `pipeline.models.customer.Customer`, to the letter.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pipeline.customers.lazy import Lazy
from pipeline.segments.compile import CompiledSegment
from pipeline.segments.computed import CompiledTrait
from pipeline.segments.leaf import Buckets

__all__ = ["Membership", "Record", "is_identified"]


class Membership(msgspec.Struct, frozen=True, gc=False):
    """Scopes of a segment that the customer satisfies; a member when ``*`` is among them.

    ``since``: the clock (ms) at which it became what it is now, a member or not; ``version``: of the segment.
    """

    version: int
    since: int
    scopes: tuple[str, ...]


class _Wire(msgspec.Struct):
    id: str
    partner: str
    identifiers: list[str]
    first_seen: int
    last_seen: int
    traits: dict[str, Any] = {}
    trait_times: dict[str, int] = {}
    origins: list[str] = []
    leaves: dict[str, msgspec.Raw] = {}
    segments: dict[str, msgspec.Raw] = {}
    deadline: int | None = None
    contacts: list[str] = []


_decoder = msgspec.json.Decoder(_Wire)
_buckets = msgspec.json.Decoder(Buckets)
_membership = msgspec.json.Decoder(Membership)
_encoder = msgspec.json.Encoder()


def is_identified(identifiers: list[str]) -> bool:
    """Is a user id, an e-mail or a phone among them (``<partner>|<u|a|e|p>|<id>``)?"""
    for identifier in identifiers:  # noqa: SIM110 - a generator costs more than the first look, which mostly decides
        if not identifier.startswith("a|", identifier.index("|") + 1):
            return True
    return False


class Record:
    """A customer, mutable. The fields of `models.customer.Customer`, and, not on the wire:

    ``identified``: has a user id, an e-mail or a phone; ``counted``: was so at the last evaluation, as the counts
    have it. ``touched``: segments and computed traits whose leaves changed since the last evaluation (id -> compiled);
    ``stale``: all of them must be evaluated. ``dirty``: differs from what was decoded, so it must be written.
    """

    __slots__ = (
        "contacts",
        "counted",
        "deadline",
        "dirty",
        "first_seen",
        "id",
        "identified",
        "identifiers",
        "last_seen",
        "leaves",
        "origins",
        "partner",
        "segments",
        "stale",
        "touched",
        "trait_times",
        "traits",
    )

    def __init__(self, identifier: str, partner: str, time: int) -> None:
        """A customer first seen at ``time`` (ms) under ``identifier``, which becomes its canonical id."""
        self.id = identifier
        self.partner = partner
        self.identifiers = [identifier]
        self.first_seen = time
        self.last_seen = time
        self.traits: dict[str, Any] = {}
        self.trait_times: dict[str, int] = {}
        self.origins: list[str] = []
        self.leaves: Lazy[Buckets] = Lazy(_buckets)
        self.segments: Lazy[Membership] = Lazy(_membership)
        self.deadline: int | None = None
        self.contacts: list[str] = []
        self.identified = is_identified(self.identifiers)
        self.counted = self.identified
        self.touched: dict[str, CompiledSegment | CompiledTrait] = {}
        self.stale = True
        self.dirty = True

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """From the wire. Raises msgspec.DecodeError (a ValueError) when it is no customer.

        Leaves and memberships are decoded when they are looked at.
        """
        wire = _decoder.decode(data)
        self = cls.__new__(cls)
        self.id = wire.id
        self.partner = wire.partner
        self.identifiers = wire.identifiers
        self.first_seen = wire.first_seen
        self.last_seen = wire.last_seen
        self.traits = wire.traits
        self.trait_times = wire.trait_times
        self.origins = wire.origins
        self.leaves = Lazy(_buckets, wire.leaves)
        self.segments = Lazy(_membership, wire.segments)
        self.deadline = wire.deadline
        self.contacts = wire.contacts
        self.identified = self.counted = is_identified(wire.identifiers)
        self.touched = {}
        self.stale = False
        self.dirty = False
        return self

    def encode(self) -> bytes:
        """UTF-8 JSON of a `models.customer.Customer`.

        Raises ValueError if the record was not evaluated since it changed: its memberships would be out of date.
        """
        if self.touched or self.stale:
            raise ValueError(f"customer {self.id!r}: evaluate before encode")
        return _encoder.encode(
            _Wire(
                self.id,
                self.partner,
                self.identifiers,
                self.first_seen,
                self.last_seen,
                self.traits,
                self.trait_times,
                self.origins,
                self.leaves.wire(),
                self.segments.wire(),
                self.deadline,
                self.contacts,
            )
        )
