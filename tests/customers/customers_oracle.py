"""A brute-force oracle of segments: plain JSON in, sets out. It shares no code with the engine, on purpose.

A person is the list of all events ever sent for it (duplicates included), each a dict with source, channel, id, time,
name, properties. A membership is computed from nothing but that list, the condition and the moment.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise, product
from zoneinfo import ZoneInfo

UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def length(rolling):
    digits = "".join(c for c in rolling if c.isdigit())
    return int(digits) * UNITS[rolling[len(digits) :]]


def kind(value):
    if value is True or value is False:
        return "flag"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "list"
    return "number" if isinstance(value, int | float) else "other"


def same(a, b):
    return kind(a) == kind(b) and a == b


def read(value, cast):
    """The value as a number, text, a date (ms) or a flag; None where it is none."""
    if cast is None or value is None:
        return value
    what = kind(value)
    if cast == "number":
        if what == "text":
            try:
                return json.loads(value) if kind(json.loads(value)) == "number" else None
            except ValueError:
                return None
        return value if what == "number" else None
    if cast == "text":
        return value if what == "text" else json.dumps(value) if what in ("flag", "number") else None
    if cast == "date":
        if what == "text":
            try:
                return round(datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp() * 1000)
            except ValueError:
                return None
        return value if what == "number" else None
    return {"true": True, "1": True, "false": False, "0": False}.get(json.dumps(value).strip('"').lower())


def satisfies(properties, where, name="property"):
    value = read((properties or {}).get(where[name]), where.get("cast"))
    op, wanted = where.get("op", "equals"), where.get("value")
    if op == "exists":
        return (value is None) != wanted
    if value is None:
        return False
    if where.get("cast") == "date":
        wanted = [read(w, "date") for w in wanted] if op == "in" else read(wanted, "date")
    if op == "equals":
        return same(value, wanted)
    if op == "not_equals":
        return not same(value, wanted)
    if op == "in":
        return any(same(value, w) for w in wanted)
    if op == "contains":
        if kind(value) == "text":
            return kind(wanted) == "text" and wanted in value
        return kind(value) == "list" and any(same(v, wanted) for v in value)
    if kind(value) != "number":
        return False
    return compared(op, value, wanted, None)


def compared(op, value, wanted, to):
    if op == "between":
        return wanted <= value <= to
    return {
        ">": value > wanted,
        ">=": value >= wanted,
        "=": value == wanted,
        "<": value < wanted,
        "<=": value <= wanted,
    }[op]


def local_date(time, zone):
    return datetime.fromtimestamp(time / 1000, ZoneInfo(zone)).date()


def midnight(day, zone):
    """The first millisecond of a date, found by looking."""
    low = round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000) - 2 * UNITS["d"]
    high = low + 4 * UNITS["d"]
    while low < high:
        middle = (low + high) // 2
        if local_date(middle, zone) >= day:
            high = middle
        else:
            low = middle + 1
    return low


def inside(window, time, now):
    if "rolling" in window:
        return time >= now - length(window["rolling"])
    if "calendar" in window:
        zone = window["calendar"].get("zone", "UTC")
        return (local_date(now, zone) - local_date(time, zone)).days < window["calendar"]["days"]
    if "between" in window:
        between = window["between"]
        day = local_date(time, between.get("zone", "UTC")).isoformat()
        return between.get("from", "0") <= day <= between.get("to", "9")
    return True


def starts_after(window, time, now):
    """Is ``time`` before the window?"""
    if "between" in window:
        return local_date(time, window["between"].get("zone", "UTC")).isoformat() < window["between"].get("from", "0")
    return not inside(window, time, now)


def those(did, events):
    """(source, id, time, properties) of the different events that are meant, the oldest first."""
    found = {}
    for e in events:
        if e["name"] != did["event"]:
            continue
        if did.get("source") not in (None, e["source"]) or did.get("channel") not in (None, e["channel"]):
            continue
        if all(satisfies(e["properties"], f) for f in did.get("where", [])):
            found[e["source"], e["id"], e["time"]] = e["properties"]
    return sorted(((*key, properties) for key, properties in found.items()), key=lambda x: (x[2], x[1], x[0]))


def counted(count, n):
    return compared(count.get("op", ">="), n, count.get("value", 1), count.get("to", 0))


def leaf_holds(leaf, events, now, person):
    window = leaf.get("window", {})
    if "event" in leaf:
        return counted(leaf.get("count", {}), sum(inside(window, e[2], now) for e in those(leaf, events)))
    if "days" in leaf:
        zone = window["calendar"].get("zone", "UTC")
        days = {local_date(e[2], zone) for e in those(leaf["days"], events) if inside(window, e[2], now)}
        return counted(leaf.get("count", {}), len(days))
    if "first" in leaf or "last" in leaf:
        times = [e[2] for e in those(leaf.get("first") or leaf["last"], events)]
        if not times:
            return False
        time = min(times) if "first" in leaf else max(times)
        return inside(leaf["within"], time, now) if "within" in leaf else starts_after(leaf["before"], time, now)
    if "aggregate" in leaf:
        found = [
            read(e[3].get(leaf["property"]), leaf.get("cast"))
            for e in those(leaf["of"], events)
            if e[3] and inside(window, e[2], now)
        ]
        numbers = [Fraction(repr(v)) if isinstance(v, float) else Fraction(v) for v in found if kind(v) == "number"]
        if not numbers and leaf["aggregate"] != "sum":
            return False
        total = {"sum": sum, "min": min, "max": max}[leaf["aggregate"]](numbers)
        wanted = leaf["is"]
        return compared(wanted["op"], total, Fraction(wanted["value"]), Fraction(wanted.get("to") or 0))
    if "sequence" in leaf:
        within = length(leaf["within"]) if leaf.get("within") else 1 << 60
        ways = product(*([e[2] for e in those(step, events)] for step in leaf["sequence"]))
        return any(
            all(a < b for a, b in pairwise(way)) and way[-1] - way[0] <= within and inside(window, way[-1], now)
            for way in ways
        )
    if "restarted" in leaf:
        times = [e[2] for e in those(leaf["restarted"], events)]
        return any(b - a >= length(leaf["after"]) and inside(window, b, now) for a, b in pairwise(times))
    if "trait" in leaf:
        return satisfies(person["traits"], leaf, "trait")
    digest = hashlib.blake2b(f"{leaf['bucket']['salt']}|{person['id']}".encode(), digest_size=8).hexdigest()
    return leaf["bucket"]["from"] <= int(digest, 16) * 100 / 2**64 < leaf["bucket"]["to"]


def holds(condition, events, now, person):
    if "all" in condition:
        return all(holds(c, events, now, person) for c in condition["all"])
    if "any" in condition:
        return any(holds(c, events, now, person) for c in condition["any"])
    if "not" in condition:
        return not holds(condition["not"], events, now, person)
    if "segment" in condition:
        return holds(person["segments"][condition["segment"]], events, now, person)
    return leaf_holds(condition, events, now, person)


def places(events):
    """Scope -> what this person did there, for every place it was seen from."""
    if not events:
        return {}
    found = {"*": events}
    for e in events:
        found["s:" + e["source"]] = [x for x in events if x["source"] == e["source"]]
        found["c:" + e["channel"]] = [x for x in events if x["channel"] == e["channel"]]
    return found


def memberships(segments, events, now, person=None):
    """Segment -> set of scopes; ``segments``: id -> condition. Segments that hold nowhere are left out."""
    person = {"id": None, "traits": {}} | (person or {}) | {"segments": segments}
    result = {}
    for segment, condition in segments.items():
        scopes = {scope for scope, inside in places(events).items() if holds(condition, inside, now, person)}
        if scopes:
            result[segment] = scopes
    return result


def counts(segments, people, now):
    """(segment, source or *, channel or *) -> (customers, identified) over ``people``: (events, identified, person)."""
    rows = {}
    for events, identified, *person in people:
        for segment, scopes in memberships(segments, events, now, *person).items():
            for scope in scopes:
                source = scope[2:] if scope.startswith("s:") else "*"
                channel = scope[2:] if scope.startswith("c:") else "*"
                n, known = rows.get((segment, source, channel), (0, 0))
                rows[segment, source, channel] = (n + 1, known + identified)
    return rows


def moments(segments, events):
    """Every millisecond at which the passing of time could matter to this person, and its neighbours."""
    windows, calendars = set(), set()
    stack = list(segments.values())
    while stack:
        c = stack.pop()
        if "all" in c or "any" in c or "not" in c:
            stack += [c["not"]] if "not" in c else c.get("all") or c.get("any")
            continue
        window = c.get("window") or c.get("before") or (isinstance(c.get("within"), dict) and c["within"]) or {}
        if "rolling" in window:
            windows.add(length(window["rolling"]))
        if "calendar" in window:
            calendars.add((window["calendar"]["days"], window["calendar"].get("zone", "UTC")))
    found = {e["time"] + w + d for e in events for w in windows for d in (-1, 0, 1, 2)}
    for days, zone in calendars:
        for e in events:
            start = midnight(local_date(e["time"], zone) + timedelta(days=days), zone)
            found |= {start + d for d in (-1, 0, 1)}
    return sorted(found)


# -- identity: which events are whose -----------------------------------------------------------------------------


def said(events):
    """(Identifier, user) for each claim that the events make: who named what beside its own user id."""
    return {
        (identifier, e["user"])
        for e in events
        if e["user"] is not None
        for identifier in (e["anonymous"], e["email"], e["phone"])
        if identifier is not None
    }


def strongest(event):
    """The identifier that an event is sent under."""
    return next(event[kind] for kind in ("user", "anonymous", "email", "phone") if event[kind] is not None)


def persons(events, owners):
    """Owner -> events, repeats left out. ``owners``: identifier -> the user that it belongs to, where it does."""
    found = {}
    for e in {(e["source"], e["id"]): e for e in events}.values():
        name = strongest(e)
        found.setdefault(owners.get(name, name), []).append(e)
    return found


def has_contact(events):
    """Whether somebody with these events is known by more than anonymous ids."""
    return any(e[kind] is not None for e in events for kind in ("user", "email", "phone"))
