"""What a lane tells of who entered and left: transitions, and the rules that they and events set off."""

from __future__ import annotations

from typing import Any

import msgspec

from pipeline.agents.programs import Compiled, Programs
from pipeline.customers.record import Record
from pipeline.dispatch.filter import variables
from pipeline.dispatch.rules import Sender, customer_of, to_dispatch
from pipeline.segments.change import Change
from pipeline.stream.transaction import Transaction

__all__ = ["Transitions"]

_encode = msgspec.json.Encoder().encode


class Transitions:
    """Of all partners."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def tell(self, record: Record, change: Change, compiled: Compiled, txn: Transaction) -> None:
        """Publish and dispatch a change, if it is a transition.

        Of one that was erased only that it has left is told, to nobody outside: a tool would mail a farewell.
        """
        if change.kind is None:
            return
        erased = change.cause == "erasure"
        transition = {
            "id": f"{compiled.partner}:{change.segment}:{change.version}:{record.id}:{change.at}:{change.kind}",
            "kind": change.kind,
            "partner": compiled.partner,
            "segment": change.segment,
            "version": change.version,
            "customer": record.id,
            "cause": change.cause,
            "event": change.event,
            "at": change.at,
            "identifiers": [] if erased else record.identifiers,
            "traits": {} if erased else record.traits,
        }
        txn.send("segments.transitions", record.id.encode(), _encode(transition))
        if erased:
            return
        name = "Segment Entered" if change.kind == "entered" else "Segment Left"
        properties = {"segment": change.segment, "cause": change.cause}
        event = {
            "id": transition["id"],
            "partner": compiled.partner,
            "source": "segments",
            "channel": "Segments",
            "type": "track",
            "name": name,
            "time": change.at,
            "received": change.at,
            "properties": properties,
            "customer": record.id,
            "control": self._programs.offset,
        }
        for rule in compiled.rules.match(name, properties, lambda: variables(event, properties, customer_of(record))):
            self.dispatch(rule, event, record, change.at, txn)

    def dispatch(self, rule: Sender, event: dict[str, Any], record: Record, now: int, txn: Transaction) -> None:
        """Have the tool of a rule, or of a mailing, told of ``event`` (as on `history`)."""
        txn.send(rule.topic, record.id.encode(), _encode(to_dispatch(rule, event, customer_of(record), now)))
