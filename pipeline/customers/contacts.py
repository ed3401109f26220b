"""Which e-mails and phones lead to a customer: what a user may claim, so that events under them alone are its own.

Only an event that names the user claims, so what somebody types into a form before signing in, or on a shared
computer, takes nobody's mail or calls away. docs/decisions/0010-contacts.md.
"""

from __future__ import annotations

import re

from pipeline.customers.apply import Event
from pipeline.customers.record import Record
from pipeline.models.event import identifier
from pipeline.models.phone import e164

__all__ = ["MAX_CONTACTS", "claim_contacts", "is_contact"]

#: Of one user: nobody has more, and a user id that many share by mistake ("undefined") must not gather everybody.
MAX_CONTACTS = 50
#: Enough to tell an address from "unknown" and "n/a"; which addresses exist, nobody knows.
_ADDRESS = re.compile(r"[^\s@|,;]+@[^\s@|,;]+\.[^\s@|,;]+")


def is_contact(key: str) -> bool:
    """Whether the identifier ``key`` is an e-mail or a phone."""
    return key.split("|", 2)[1] in ("e", "p")


def claim_contacts(record: Record, event: Event) -> list[str]:
    """The identifiers of e-mail and phone that ``event``, which names the user of ``record``, has it claim now.

    Each once: the claim is remembered in ``record``, in the transaction that sends it. An address that is none and a
    number that is not E.164 are claimed by nobody.
    """
    asked: list[str] = []
    email, phone = event.email, event.phone
    if email:
        key = identifier(record.partner, "e", email)
        if key not in record.contacts and _ADDRESS.fullmatch(email):
            asked.append(key)
    if phone:
        key = identifier(record.partner, "p", phone)
        if key not in record.contacts and e164(phone) == phone:
            asked.append(key)
    del asked[max(0, MAX_CONTACTS - len(record.contacts)) :]
    if asked:
        record.contacts += asked
        record.dirty = True
    return asked
