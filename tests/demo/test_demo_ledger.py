"""The demo's own account of what must come of its events, against cases worked out by hand."""

from __future__ import annotations

from typing import Any

from pipeline.demo.ledger import Figure, Ledger, Sent
from pipeline.demo.partner import JACKET, SEGMENTS

UNDECIDED = SEGMENTS["undecided"][1]


def viewed(id: str, category: str = "Jacket", source: str = "app", **who: Any) -> Sent:
    channel = {"app": "Mobile", "online-store": "Web"}[source]
    return Sent(source, channel, id, "Category Viewed", properties={"category": category}, **who)


def ordered(id: str, **who: Any) -> Sent:
    return Sent("app", "Mobile", id, "Order Completed", **who)


def ledger(*events: Sent) -> Ledger:
    book = Ledger("p")
    book.add(*events)
    return book


def test_a_customer_of_two_sources_counts_once_in_all() -> None:
    book = ledger(
        viewed("1", user="ann"),
        viewed("2", user="ann", source="online-store"),
        viewed("3", anonymous="d1"),
        viewed("4", "Hat", user="bob"),
    )
    app, shop = Figure(2, 1, 1), Figure(1, 1, 0)
    assert book.figures(JACKET) == {
        "*": Figure(2, 1, 1),
        "s:app": app,
        "c:Mobile": app,
        "s:online-store": shop,
        "c:Web": shop,
    }
    # A leaf's own source: the app's events say nothing.
    assert book.figures(JACKET | {"source": "online-store"}) == {"*": shop, "s:online-store": shop, "c:Web": shop}


def test_a_repeat_counts_once() -> None:
    book = ledger(viewed("1", user="ann"), viewed("1", "Hat", user="bob"))
    assert [event.user for event in book.sent] == ["ann"]


def test_a_visitor_belongs_to_the_first_user_and_to_no_second() -> None:
    signed_in = Sent("app", "Mobile", "2", "Signed In", "ann", "d1")
    again = Sent("app", "Mobile", "3", "Signed In", "bob", "d1")
    book = ledger(viewed("1", anonymous="d1"), signed_in, again, viewed("4", anonymous="d1"))
    assert {name: len(events) for name, events in book.customers().items()} == {"p|u|ann": 3, "p|u|bob": 1}
    assert book.figures(JACKET)["*"] == Figure(1, 1, 0)
    assert book.moves({"j": JACKET}) == {
        ("j", "entered", "p|a|d1"): 1,
        ("j", "left", "p|a|d1"): 1,
        ("j", "entered", "p|u|ann"): 1,
    }


def test_an_order_ends_being_undecided_and_one_before_the_view_prevents_it() -> None:
    book = ledger(viewed("1", user="ann"), ordered("2", user="ann"), ordered("3", user="bob"), viewed("4", user="bob"))
    assert book.moves({"u": UNDECIDED}) == {("u", "entered", "p|u|ann"): 1, ("u", "left", "p|u|ann"): 1}
    assert book.figures(UNDECIDED) == {}
