"""A customer beside a segment: what was counted, and why."""

from __future__ import annotations

from pydantic import Field

from pipeline.control import members
from pipeline.control.reducer import ControlState
from pipeline.customers.explain import Reason, explain
from pipeline.models.base import Millis
from pipeline.query.counts import Worth
from pipeline.query.reader import Reader
from pipeline.segments.compile import Program

__all__ = ["Explanation", "explanation"]


class Explanation(Worth):
    """``member``, ``since``, ``scopes``: as they are counted, at ``version``.

    ``why``: the condition as it is now, part by part, over all that the customer did, at ``as_of``.
    """

    customer: str
    segment: str
    member: bool
    since: Millis | None = Field(description="when it became what it is; null: it never was anything else")
    scopes: list[str]
    version: int
    why: Reason


def explanation(
    reader: Reader, state: ControlState, partner: str, segment: str, customer: str, now_ms: int
) -> Explanation | None:
    """The customer known by ``customer`` (any identifier) beside a segment that exists; None: nobody is."""
    known = reader.customer(partner, customer)
    record = reader.record(known.id) if known is not None and known.partner == partner else None
    if record is None:
        return None
    names = members.behind(state.segments, partner, segment)
    program = Program(
        [state.segments[partner, name] for name in names if (partner, name) in state.segments],
        [trait for trait in state.traits.values() if trait.partner == partner],
    )
    wanted = state.segments[partner, segment]
    worth = reader.counts.of(partner, segment, wanted.version, now_ms)
    membership = record.segments.get(segment)
    return Explanation(
        customer=record.id,
        segment=segment,
        member=membership is not None and "*" in membership.scopes,
        since=None if membership is None else membership.since,
        scopes=[] if membership is None else list(membership.scopes),
        version=wanted.version if membership is None else membership.version,
        why=explain(wanted.condition, program, record, now_ms if worth.as_of is None else worth.as_of),
        **worth.model_dump(include=set(Worth.model_fields)),
    )
