"""The demo's checks: right figures pass, and each wrong one is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipeline.demo.checks import Seen, check
from pipeline.demo.ledger import Ledger, Sent
from pipeline.demo.partner import SEGMENTS
from pipeline.demo.receiver import Received

NOW = 1_800_000_000_000


def book() -> Ledger:
    """Ann views jackets in the shop, and a rule tells of her order."""
    made = Ledger("p")
    made.add(
        Sent("online-store", "Web", "view", "Category Viewed", "ann", properties={"category": "Jacket"}),
        Sent("online-store", "Web", "order", "Order Completed", "ann"),
    )
    made.refused["not_json"] = 1
    return made


def move(segment: str, kind: str, at: int, cause: str = "event") -> dict[str, Any]:
    return {
        "id": f"{segment}:{kind}:{at}",
        "segment": segment,
        "kind": kind,
        "customer": "p|u|ann",
        "cause": cause,
        "at": at,
    }


def answer(customers: int) -> dict[str, Any]:
    row = {"customers": customers, "identified": customers, "anonymous": 0}
    rows = [row] if customers else []
    return {
        "total": row,
        "by_source": [r | {"name": "online-store"} for r in rows],
        "by_channel": [r | {"name": "Web"} for r in rows],
        "complete": True,
        "as_of": NOW + 30_000,
    }


def seen() -> Seen:
    """What must come of `book`."""
    inside = {"jackets-online", "jackets", "buyers"}
    entered = move("jackets-online", "entered", NOW)
    return Seen(
        counts={segment: answer(int(segment in inside)) for segment in SEGMENTS},
        history={("online-store", "view"): NOW, ("online-store", "order"): NOW + 5},
        transitions=[
            entered,
            move("jackets", "entered", NOW),
            move("undecided", "entered", NOW),
            move("undecided", "left", NOW + 5),
            move("buyers", "entered", NOW + 5),
            move("just-now", "entered", NOW),
            move("just-now", "left", NOW + 20_001, "time"),
        ],
        rejected={"not_json": 1},
        received=[
            Received("w1", "Segment Entered", "campaign", "p|u|ann", entered["id"]),
            Received("w2", "Shop: Order Completed", "orders", "p|u|ann", "order"),
        ],
        sent_at=NOW + 10,
    )


def wrong(ledger: Ledger, found: Seen) -> list[str]:
    return [one.what for one in check(ledger, found) if one.wrong]


def test_right_figures_pass() -> None:
    assert wrong(book(), seen()) == []


def counts(segment: str, **fields: Any) -> Callable[[Seen], Seen]:
    return lambda s: replace(s, counts={**s.counts, segment: {**s.counts[segment], **fields}})


def without(field: str, index: int) -> Callable[[Seen], Seen]:
    return lambda s: replace(s, **{field: [row for n, row in enumerate(getattr(s, field)) if n != index]})


def late(s: Seen) -> Seen:
    return replace(s, transitions=[*s.transitions[:-1], {**s.transitions[-1], "at": NOW + 20_002}])


def forged(s: Seen) -> Seen:
    return replace(s, received=[replace(s.received[0], fault="no"), s.received[1]])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (counts("jackets", total={"customers": 2, "identified": 1, "anonymous": 1}), ["jackets, in all"]),
        (counts("jackets", total={"customers": 1, "identified": 0, "anonymous": 1}), ["jackets, in all"]),
        (counts("buyers", by_source=[]), ["buyers, by source"]),
        (counts("buyers", by_channel=[]), ["buyers, by channel"]),
        (counts("stargazers", complete=False), ["stargazers, worth"]),
        (counts("undecided", as_of=NOW), ["undecided, worth"]),
        (without("transitions", 1), ["jackets, transitions"]),
        (without("transitions", 3), ["undecided, transitions"]),
        (without("transitions", 6), ["just-now, transitions"]),
        (late, ["just-now, transitions"]),
        (without("received", 0), ["webhooks by rule"]),
        (without("received", 1), ["webhooks by rule"]),
        (forged, ["webhooks not properly signed"]),
        (lambda s: replace(s, received=[*s.received, replace(s.received[0], id="w3")]), ["webhook ids"]),
        (
            lambda s: replace(s, received=[*s.received, Received("w4", "Product Added", "off", "p|u|ann", "x")]),
            ["webhooks by rule"],
        ),
        (lambda s: replace(s, rejected={}), ["rejected by reason"]),
        (lambda s: replace(s, dead=["dead.fanout: KeyError"]), ["dead letters"]),
        (lambda s: replace(s, repeats=1), ["events that came out twice"]),
        (
            lambda s: replace(s, history={**s.history, ("online-store", "other"): NOW}),
            ["events by source", "event ids"],
        ),
        (lambda s: replace(s, counts={}), list(SEGMENTS)),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[Seen], Seen], named: list[str]) -> None:
    assert wrong(book(), change(seen())) == named


def test_what_went_wrong_while_sending_is_named() -> None:
    ledger = book()
    ledger.problems.append("the gateway said 500")
    faults = [one for one in check(ledger, seen()) if one.wrong]
    assert [one.what for one in faults] == ["what the doors said"]
    assert "the gateway said 500" in faults[0].wrong
