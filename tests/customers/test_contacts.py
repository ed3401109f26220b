"""Which e-mails and phones a user claims."""

from __future__ import annotations

import pytest
from customers_world import Happening, T

from pipeline.customers.contacts import MAX_CONTACTS, claim_contacts, is_contact
from pipeline.customers.record import Record


def user():
    return Record("acme|u|7", "acme", T)


def named(email=None, phone=None):
    return Happening(user_id="7", email=email, phone=phone)


def test_a_user_claims_each_contact_once_and_remembers_it():
    record = user()
    assert claim_contacts(record, named("Ann@Shop.example", "+46701234567")) == [
        "acme|e|ann@shop.example",
        "acme|p|+46701234567",
    ]
    assert claim_contacts(record, named("ann@shop.example", "+46701234567")) == []
    assert claim_contacts(record, named("ann@work.example")) == ["acme|e|ann@work.example"]
    record.stale = False
    again = Record.decode(record.encode())
    assert again.contacts == ["acme|e|ann@shop.example", "acme|p|+46701234567", "acme|e|ann@work.example"]
    assert claim_contacts(again, named("ann@work.example", "+46701234567")) == []
    assert not again.dirty


@pytest.mark.parametrize("email", ["unknown", "n/a", "a@b", "a b@c.example", "@c.example", "a@b.example,c@d.example"])
def test_what_is_no_address_is_claimed_by_nobody(email):
    assert claim_contacts(user(), named(email)) == []


@pytest.mark.parametrize("phone", ["070-123 45 67", "+46 1", "46701234567", "+999123456", "+46 70 123 45 67"])
def test_what_is_not_e164_is_claimed_by_nobody(phone):
    assert claim_contacts(user(), named(phone=phone)) == []


def test_a_user_id_that_everybody_shares_does_not_gather_everybody():
    record = user()
    claimed = [c for n in range(MAX_CONTACTS) for c in claim_contacts(record, named(f"{n}@x.example", f"+4670{n:07d}"))]
    assert len(claimed) == len(record.contacts) == MAX_CONTACTS
    assert claim_contacts(record, named("one@more.example")) == []


def test_contacts_are_told_from_ids():
    assert [is_contact(f"acme|{kind}|x|e|y") for kind in "uaep"] == [False, False, True, True]
