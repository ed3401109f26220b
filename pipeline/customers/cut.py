"""What a customer did before a moment, left out."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.customers.contacts import is_contact
from pipeline.customers.record import Record
from pipeline.models.event import identifier
from pipeline.segments.leaf import Buckets

__all__ = ["cut", "cut_leaves", "drop_contacts"]


def cut_leaves(leaves: Mapping[str, Buckets], before: int) -> dict[str, Buckets]:
    """What leaves keep (leaf id -> origin -> pairs), without that of events before ``before`` (ms).

    A leaf that keeps the first times an event happened knows nothing of later ones: it counts from the next on.
    """
    kept: dict[str, Buckets] = {}
    for key, buckets in leaves.items():
        young = {
            origin: there
            for origin, pairs in buckets.items()
            if (there := [pair for pair in pairs if pair[0] >= before])
        }
        if young:
            kept[key] = young
    return kept


def cut(record: Record, before: int) -> None:
    """Forget what ``record`` did, and said of itself, before ``before`` (ms); who it is, and from where, stays.

    Memberships are not looked at: `evaluate` follows.
    """
    if record.first_seen >= before:
        return
    young = cut_leaves(record.leaves, before)
    for key in list(record.leaves):
        if key in young:
            record.leaves[key] = young[key]
        else:
            del record.leaves[key]
    for name in [name for name in record.traits if record.trait_times.get(name, 0) < before]:
        del record.traits[name]
        record.trait_times.pop(name, None)
    record.first_seen = before
    record.last_seen = max(record.last_seen, before)
    record.dirty = True


def drop_contacts(record: Record) -> None:
    """Forget e-mails and phones that no trait of ``record`` says."""
    email, phone = record.traits.get("email"), record.traits.get("phone")
    said = [identifier(record.partner, "e", email)] if type(email) is str else []
    if type(phone) is str:
        said.append(identifier(record.partner, "p", phone))
    record.identifiers = [key for key in record.identifiers if key == record.id or not is_contact(key) or key in said]
    record.dirty = True
