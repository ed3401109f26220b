"""What a lane has taken of definitions, of segments and of computed traits: since when it covers them, what a change
needs read and looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pipeline.agents.programs import Definition, Programs
from pipeline.agents.tables import STATE, STEP, dumps, segment_key, step_of, sweep_key
from pipeline.models.base import dumps as dumps_sorted
from pipeline.segments.leaf import Leaf
from pipeline.stream.transaction import Transaction

__all__ = ["Definitions"]

_loads = msgspec.json.Decoder().decode


class Definitions:
    """One lane's. What a new or edited segment asks about is looked for in the past (`unfilled`); until that is done it
    is ``dormant``: its leaves keep what comes, and nobody enters or leaves it. Then, and for a removed one, every
    customer of its partner is evaluated once more, in steps beside live events; till then it is not complete.
    A computed trait is treated as one (`programs.Definition`), and a segment that looks at it is dormant, and not
    complete, for as long as the trait is: who has no value yet is nobody who has none.
    """

    def __init__(self, lane: int, programs: Programs) -> None:
        self._lane = lane
        self._programs = programs
        #: The offset of the control log that was followed; None: nothing yet.
        self._taken: int | None = None
        self._segments: dict[tuple[str, str], dict[str, Any]] = {}
        #: Partner -> the last customer that its sweep has visited.
        self._sweeps: dict[str, str] = {}
        self._dormant: dict[str, frozenset[str]] = {}
        self._dormant_of = -1

    def load(self, txn: Transaction) -> None:
        """Read back what the tables say."""
        self._taken = None
        self._segments = {}
        self._dormant.clear()
        start = segment_key("", "")[:1]
        for key, value in txn.scan(STATE, start, start + b"\xff"):
            partner, _, segment = key[1:].decode().partition("|")
            self._segments[partner, segment] = _loads(value)
        start = sweep_key("")
        self._sweeps = {k[1:].decode(): v.decode() for k, v in txn.scan(STATE, start, start + b"\xff")}

    def follow(self, clock: int, txn: Transaction) -> None:
        """Take what changed since the last call; ``clock``: the lane's, from when on a new condition is covered."""
        if self._taken == self._programs.offset:
            return
        self._taken = self._programs.offset
        current = {
            (partner, segment.id): segment
            for partner in self._programs.partners()
            for segment in self._programs.of(partner).definitions.values()
        }
        for where, segment in current.items():
            known = self._segments.get(where)
            since = segment.since
            if known is None or known["since"] != since:
                empty = not step_of(segment.partner, "", txn, 1)
                # A lane that has no customer of the partner has missed nothing: its coverage has no beginning.
                coverage = 0 if empty else max(clock, since)
                filled = empty or not any(leaf.matchers for leaf in segment.leaves)
                self._learn(
                    where, segment, {"since": since, "coverage": coverage, "swept": empty, "filled": filled}, txn
                )
                if filled and not empty:
                    self._start_sweep(segment.partner, txn)
            elif known["version"] != segment.version:
                self._learn(where, segment, known, txn)
        for where in [known for known in self._segments if known not in current]:
            del self._segments[where]
            self._dormant.clear()
            txn.delete(STATE, segment_key(*where))
            self._start_sweep(where[0], txn)

    def dormant(self, partner: str) -> frozenset[str]:
        """Its segments whose past is not read yet, or that this lane has not taken yet (another of the process has)."""
        if self._dormant_of != self._programs.offset:
            self._dormant.clear()
            self._dormant_of = self._programs.offset
        found = self._dormant.get(partner)
        if found is None:
            definitions = self._programs.of(partner).definitions.values()
            unread = {
                segment.id
                for segment in definitions
                if (known := self._segments.get((partner, segment.id))) is None
                or known["since"] != segment.since
                or not _filled(known)
            }
            found = self._dormant[partner] = frozenset(
                segment.id for segment in definitions if segment.id in unread or not unread.isdisjoint(segment.traits)
            )
        return found

    def unfilled(self) -> tuple[str, dict[str, int]] | None:
        """A partner, and its segments whose past is to be read, each as it is since that moment (ms).

        None also while the programs are not those that were followed: what they have of these segments is older, as
        after a start, or newer.
        """
        if self._taken != self._programs.offset:
            return None
        found: dict[str, int] = {}
        first: str | None = None
        for (partner, segment), known in self._segments.items():
            if not _filled(known) and first in (None, partner):
                first = partner
                found[segment] = known["since"]
        return None if first is None else (first, found)

    def fill(self, partner: str, segments: Mapping[str, int], coverage: int, txn: Transaction) -> None:
        """The past of these is read, from ``coverage`` on; those that became others meanwhile are still to be read."""
        for segment, since in segments.items():
            known = self._segments.get((partner, segment))
            if known is not None and known["since"] == since:
                known |= {"filled": True, "coverage": coverage}
                txn.put(STATE, segment_key(partner, segment), dumps(known))
        self._dormant.clear()
        self._start_sweep(partner, txn)

    def settled(self, partner: str, segment: str) -> bool:
        """Whether its members are right in this lane: the past is read, and everybody was looked at."""
        definition = self._programs.of(partner).definitions.get(segment)
        names = [segment, *(definition.traits if definition else ())]
        found = [self._segments.get((partner, name)) for name in names]
        return all(known is not None and _filled(known) and known["swept"] for known in found)

    def sweep(self, txn: Transaction, visit: Callable[[bytes], None]) -> bool:
        """One step: ``visit`` up to `STEP` customers of a partner; True when there is more to do."""
        if not self._sweeps:
            return False
        partner, cursor = next(iter(self._sweeps.items()))
        keys = step_of(partner, cursor, txn)
        for key in keys:
            visit(key)
        if len(keys) == STEP:
            self._sweeps[partner] = keys[-1].decode()
            txn.put(STATE, sweep_key(partner), keys[-1])
            return True
        del self._sweeps[partner]
        txn.delete(STATE, sweep_key(partner))
        for (owner, segment), known in self._segments.items():
            if owner == partner and _filled(known):
                known["swept"] = True
                txn.put(STATE, segment_key(owner, segment), dumps(known))
        return bool(self._sweeps)

    def progress(self, clock: int, filling: str, share: float, txn: Transaction) -> None:
        """Publish version, coverage and completeness of the segments for which they changed.

        ``share``: of the past of ``filling``, the partner whose is being read, how much is.
        """
        for (partner, name), known in self._segments.items():
            definitions = self._programs.of(partner).definitions
            compiled = definitions.get(name)
            if compiled is None or any((partner, trait) not in self._segments for trait in compiled.traits):
                # The programs are newer than what was followed: another lane of the process had them first.
                continue
            parts = [(self._segments[partner, each], definitions[each].leaves) for each in (name, *compiled.traits)]
            coverage = max(part["coverage"] for part, _ in parts)
            filled = all(_filled(part) for part, _ in parts)
            complete = filled and all(
                part["swept"] and _spans(part["coverage"], leaves, clock) for part, leaves in parts
            )
            read = 1.0 if filled else round(share * 20) / 20 if partner == filling else 0.0
            shown = [known["version"], coverage, complete, read]
            if known["published"] == shown:
                continue
            known["published"] = shown
            key = {"partner": partner, "segment": name, "lane": self._lane}
            row = key | {
                "version": known["version"],
                "as_of": clock,
                "coverage_from": coverage,
                "complete": complete,
                "back_fill": read,
            }
            txn.send("segments.progress", dumps_sorted(key), dumps(row))
            txn.put(STATE, segment_key(partner, name), dumps(known))

    def _learn(self, where: tuple[str, str], segment: Definition, known: dict[str, Any], txn: Transaction) -> None:
        known |= {"version": segment.version, "published": None}
        self._segments[where] = known
        self._dormant.clear()
        txn.put(STATE, segment_key(*where), dumps(known))

    def _start_sweep(self, partner: str, txn: Transaction) -> None:
        self._sweeps[partner] = ""
        txn.put(STATE, sweep_key(partner), b"")


def _spans(coverage: int, leaves: list[Leaf], clock: int) -> bool:
    """Whether all that says anything of these leaves is since ``coverage``."""
    needs = (leaf.needs(clock) for leaf in leaves)
    return coverage == 0 or all(need is not None and need >= coverage for need in needs)


def _filled(known: dict[str, Any]) -> bool:
    return bool(known.get("filled", True))
