"""Every figure against what was sent. Pure: a ledger and what was seen in, a list of checks out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.demo.ledger import Figure, Ledger
from pipeline.demo.partner import JACKET, RULES, SEGMENTS
from pipeline.demo.receiver import Received

__all__ = ["Check", "Seen", "check"]

_MOVING = "just-now"
_MOVING_MS = 20_000


@dataclass(frozen=True, slots=True)
class Check:
    """One figure. ``wrong``: how it differs, empty when it does not."""

    what: str
    expected: str
    found: str
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What came out; the fields are those of `Watch` and `Receiver`. ``sent_at``: ms, when sending had ended."""

    counts: Mapping[str, Mapping[str, Any]]
    history: Mapping[tuple[str, str], int]
    transitions: Sequence[Mapping[str, Any]]
    rejected: Mapping[str, int]
    received: Sequence[Received]
    sent_at: int
    repeats: int = 0
    dead: Sequence[str] = ()


def check(ledger: Ledger, seen: Seen) -> list[Check]:
    """All checks, in the order in which people read them."""
    checks = [_compare("what the doors said", [], ledger.problems)]
    sent: Counter[str] = Counter(event.source for event in ledger.sent)
    events: Counter[str] = Counter(source for source, _ in seen.history)
    checks.append(_compare("events by source", dict(sent), dict(events)))
    ids = {(event.source, event.id) for event in ledger.sent}
    checks.append(_sets("event ids", ids, seen.history.keys()))
    checks.append(_compare("events that came out twice", 0, seen.repeats))
    checks.append(_compare("rejected by reason", dict(ledger.refused), dict(seen.rejected)))
    checks.append(_compare("dead letters", [], list(seen.dead)))
    for segment in SEGMENTS:
        checks += _counts(segment, ledger, seen)
    checks += [*_transitions(ledger, seen), _times(ledger, seen)]
    return [*checks, *_deliveries(ledger, seen)]


def _counts(segment: str, ledger: Ledger, seen: Seen) -> list[Check]:
    answer = seen.counts.get(segment)
    if answer is None:
        return [Check(f"{segment}", "an answer", "none", "the query API has not answered")]
    # Those of the moving window have all left by the time that is checked.
    wanted = {} if segment == _MOVING else ledger.figures(SEGMENTS[segment][1])
    found = {"*": answer["total"]} if answer["total"]["customers"] else {}
    found |= {f"s:{row['name']}": row for row in answer["by_source"]}
    found |= {f"c:{row['name']}": row for row in answer["by_channel"]}
    figures = {scope: Figure(row["customers"], row["identified"], row["anonymous"]) for scope, row in found.items()}
    checks = []
    for kind, title in (("*", "in all"), ("s:", "by source"), ("c:", "by channel")):
        pair = [
            {
                scope.removeprefix(kind) or "all": _words(figure)
                for scope, figure in some.items()
                if scope.startswith(kind)
            }
            for some in (wanted, figures)
        ]
        checks.append(_compare(f"{segment}, {title}", *pair))
    fresh = answer["complete"] and (answer["as_of"] or 0) >= seen.sent_at
    state = f"complete: {answer['complete']}, as of {answer['as_of']}"
    checks.append(
        Check(f"{segment}, worth", "whole and fresh", "whole and fresh" if fresh else state, "" if fresh else state)
    )
    return checks


def _words(figure: Figure) -> str:
    return f"{figure.customers} ({figure.identified} known, {figure.anonymous} anonymous)"


def _transitions(ledger: Ledger, seen: Seen) -> list[Check]:
    still = {segment: condition for segment, (_, condition) in SEGMENTS.items() if segment != _MOVING}
    wanted = ledger.moves(still)
    found = Counter((t["segment"], t["kind"], t["customer"]) for t in seen.transitions if t["segment"] != _MOVING)
    checks = []
    for segment in still:
        pair = [Counter({key[1:]: n for key, n in moves.items() if key[0] == segment}) for moves in (wanted, found)]
        totals = [
            {kind: sum(n for (k, _), n in some.items() if k == kind) for kind in ("entered", "left")} for some in pair
        ]
        difference = _difference(*pair)
        checks.append(Check(f"{segment}, transitions", _text(totals[0]), _text(totals[1]), difference))
    return checks


def _times(ledger: Ledger, seen: Seen) -> Check:
    """Of the moving window: whoever came in has left, by time 1 ms after the window, or into a merge."""
    happened: dict[str, set[int]] = {}
    for customer, events in ledger.customers().items():
        happened[customer] = {seen.history.get((event.source, event.id), 0) for event in events}
    inside: Counter[str] = Counter()
    entered: set[str] = set()
    faults = []
    for move in seen.transitions:
        if move["segment"] != _MOVING:
            continue
        customer = move["customer"]
        inside[customer] += 1 if move["kind"] == "entered" else -1
        entered.add(customer)
        by_time = move["kind"] == "left" and move["cause"] == "time"
        # A visitor's events are its customer's in the ledger.
        if by_time and customer in happened and move["at"] - _MOVING_MS - 1 not in happened[customer]:
            faults.append(f"{customer} left at {move['at']}, not 20.001 s after an event")
    wanted = ledger.touching(JACKET)
    faults += [f"{customer} never entered" for customer in wanted - entered]
    faults += [f"{customer} entered without an event" for customer in entered - wanted]
    faults += [
        f"{customer} entered {balance:+} times more often than left" for customer, balance in inside.items() if balance
    ]
    expected = f"{len(wanted)} came and went"
    return Check(
        f"{_MOVING}, transitions", expected, f"{len(entered)} came, {sum(inside.values())} left to go", _first(faults)
    )


def _deliveries(ledger: Ledger, seen: Seen) -> list[Check]:
    wanted = {
        (name, rule.prefix + rule.event, event.id)
        for name, rule in RULES.items()
        for event in ledger.sent
        if rule.enabled and event.name == rule.event
    }
    for name, rule in RULES.items():
        if rule.event == "Segment Entered":
            moves = (t for t in seen.transitions if t["kind"] == "entered" and t["segment"] == rule.segment)
            wanted |= {(name, rule.prefix + rule.event, move["id"]) for move in moves}
    found = {(row.rule, row.name, row.event): row.id for row in seen.received}
    by_rule = [dict(Counter(rule for rule, _, _ in some)) for some in (wanted, found)]
    difference = _difference(Counter(wanted), Counter(found.keys()))
    forged = [row.fault for row in seen.received if row.fault]
    ids = len({row.id for row in seen.received})
    return [
        Check("webhooks by rule", _text(by_rule[0]), _text(by_rule[1]), difference),
        _compare("webhooks not properly signed", [], forged),
        _compare("webhook ids", len(found), ids),
    ]


def _compare(what: str, expected: Any, found: Any) -> Check:
    wrong = "" if expected == found else f"expected {_text(expected)}, found {_text(found)}"
    return Check(what, _text(expected), _text(found), wrong)


def _sets(what: str, expected: Iterable[Any], found: Iterable[Any]) -> Check:
    wanted, there = Counter(expected), Counter(found)
    return Check(what, str(wanted.total()), str(there.total()), _difference(wanted, there))


def _difference(wanted: Counter[Any], found: Counter[Any]) -> str:
    missing, surplus = wanted - found, found - wanted
    faults = [f"missing {key}" for key in missing.elements()] + [f"too much {key}" for key in surplus.elements()]
    return _first(faults)


def _first(faults: Sequence[str]) -> str:
    return "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in sorted(value.items())) or "none"
    if isinstance(value, list):
        return _first([str(item) for item in value]) or "none"
    return str(value)
