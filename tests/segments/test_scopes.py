"""Scopes: a customer is counted where it was seen, and nowhere else."""

from __future__ import annotations

from pipeline.segments.scopes import scopes_of


def test_scopes_of_the_places_a_customer_was_seen_from():
    scopes = scopes_of(("app|Mobile", "crm|Web", "web|Web"))
    assert scopes.names == ("*", "s:app", "s:crm", "s:web", "c:Mobile", "c:Web")
    assert scopes.named(scopes.all) == scopes.names
    assert scopes.named(scopes.of["crm|Web"]) == ("*", "s:crm", "c:Web")
    assert scopes.named(0) == ()


def test_a_customer_never_seen_is_nowhere():
    assert scopes_of(()).all == 0
    assert scopes_of(()).names == ()


def test_a_channel_may_have_any_name():
    scopes = scopes_of(("web|A|B: *",))
    assert scopes.names == ("*", "s:web", "c:A|B: *")


def test_groups_are_the_scopes_that_see_the_same_events():
    scopes = scopes_of(("app|Mobile", "web|Mobile", "web|Web"))
    groups = {scopes.named(mask): origins for mask, origins in scopes.groups(("web|Web", "app|Mobile"))}
    assert groups == {
        ("*",): (("web|Web",), ("app|Mobile",)),
        ("s:app", "c:Mobile"): (("app|Mobile",),),
        ("s:web", "c:Web"): (("web|Web",),),
    }
