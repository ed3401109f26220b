"""A brute-force oracle of segments: plain JSON in, sets out. It shares no code with the engine, on purpose.

A person is the list of all events ever sent for it (duplicates included), each a dict with source, channel, id, time,
name, properties. A membership is computed from nothing but that list, the condition and the moment.
"""

from __future__ import annotations

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


def satisfies(properties, where):
    value = (properties or {}).get(where["property"])
    op, wanted = where.get("op", "equals"), where.get("value")
    if op == "exists":
        return (value is None) != wanted
    if value is None:
        return False
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
    return {
        ">": value > wanted,
        ">=": value >= wanted,
        "<": value < wanted,
        "<=": value <= wanted,
    }[op]


def leaf_holds(leaf, events, now):
    rolling = leaf.get("window", {}).get("rolling")
    found = set()
    for e in events:
        if e["name"] != leaf["event"]:
            continue
        if leaf.get("source") not in (None, e["source"]) or leaf.get("channel") not in (None, e["channel"]):
            continue
        if not all(satisfies(e["properties"], f) for f in leaf.get("where", [])):
            continue
        if rolling is not None and e["time"] < now - length(rolling):
            continue
        found.add((e["source"], e["id"], e["time"]))
    n = len(found)
    count = leaf.get("count", {})
    value = count.get("value", 1)
    return {
        ">=": n >= value,
        ">": n > value,
        "=": n == value,
        "<=": n <= value,
        "<": n < value,
        "between": value <= n <= count.get("to", 0),
    }[count.get("op", ">=")]


def holds(condition, events, now):
    if "all" in condition:
        return all(holds(c, events, now) for c in condition["all"])
    if "any" in condition:
        return any(holds(c, events, now) for c in condition["any"])
    if "not" in condition:
        return not holds(condition["not"], events, now)
    return leaf_holds(condition, events, now)


def places(events):
    """Scope -> what this person did there, for every place it was seen from."""
    if not events:
        return {}
    found = {"*": events}
    for e in events:
        found["s:" + e["source"]] = [x for x in events if x["source"] == e["source"]]
        found["c:" + e["channel"]] = [x for x in events if x["channel"] == e["channel"]]
    return found


def memberships(segments, events, now):
    """Segment -> set of scopes; ``segments``: id -> condition. Segments that hold nowhere are left out."""
    result = {}
    for segment, condition in segments.items():
        scopes = {scope for scope, inside in places(events).items() if holds(condition, inside, now)}
        if scopes:
            result[segment] = scopes
    return result


def counts(segments, people, now):
    """(segment, source or *, channel or *) -> (customers, identified) over ``people``: (events, identified)."""
    rows = {}
    for events, identified in people:
        for segment, scopes in memberships(segments, events, now).items():
            for scope in scopes:
                source = scope[2:] if scope.startswith("s:") else "*"
                channel = scope[2:] if scope.startswith("c:") else "*"
                n, known = rows.get((segment, source, channel), (0, 0))
                rows[segment, source, channel] = (n + 1, known + identified)
    return rows


def moments(segments, events):
    """Every millisecond at which the passing of time could matter to this person, and its neighbours."""
    windows = set()
    stack = list(segments.values())
    while stack:
        c = stack.pop()
        if "event" in c:
            if "rolling" in c.get("window", {}):
                windows.add(length(c["window"]["rolling"]))
        else:
            stack += [c["not"]] if "not" in c else c.get("all") or c.get("any")
    return sorted({e["time"] + w + d for e in events for w in windows for d in (-1, 0, 1, 2)})


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
