"""A brute-force oracle of computed traits: plain JSON in, a value out. It shares no code with the engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import customers_oracle as oracle

__all__ = ["computed"]


def computed(definitions, events, now):
    """Name -> value of what ``definitions`` (name -> computation) say of a person's ``events`` at ``now``."""
    found = {name: value(computation, events, now) for name, computation in definitions.items()}
    return {name: worth for name, worth in found.items() if worth is not None}


def value(computation, events, now):
    window, kind = computation.get("window", {}), computation["compute"]
    took = [each for each in oracle.those(computation["of"], events) if oracle.inside(window, each[2], now)]
    if "property" in computation:
        read = [oracle.read((p or {}).get(computation["property"]), computation.get("cast")) for *_, p in took]
        numbers = [Fraction(repr(number)) for number in read if oracle.kind(number) == "number"]
        if not numbers:
            return None
        total = sum(numbers)
        worth = {"sum": total, "average": total / len(numbers), "min": min(numbers), "max": max(numbers)}[kind]
    elif not took:
        return None
    elif kind == "count":
        worth = Fraction(len(took))
    elif kind == "days":
        zone = window["calendar"].get("zone", "UTC")
        worth = Fraction(len({oracle.local_date(each[2], zone) for each in took}))
    else:
        times = [each[2] for each in took]
        time = min(times) if kind == "first" else max(times)
        if "scores" in computation:
            return 1 + sum(now - time <= oracle.length(bound) for bound in computation["scores"])
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"
    if "scores" in computation:
        return 1 + sum(worth >= Fraction(repr(bound)) for bound in computation["scores"])
    return int(worth) if worth.denominator == 1 else float(worth)
