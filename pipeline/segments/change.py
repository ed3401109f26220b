"""What an evaluation found different in one segment of one customer."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Cause", "Change", "Kind"]

Cause = Literal["event", "time", "merge", "definition", "back-fill", "erasure"]
Kind = Literal["entered", "left"]


class Change(NamedTuple):
    """From ``scopes_before`` to ``scopes_after`` at the clock ``at`` (ms).

    ``kind``: a customer is a member when ``*`` is among the scopes; None when only other scopes or the identity
    changed, which moves counts but is no transition. ``identified_*``: counted among the identified or not.
    ``event``: message id of the event that caused it, if one did. ``version``: of the segment.
    """

    segment: str
    version: int
    kind: Kind | None
    cause: Cause
    event: str | None
    at: int
    scopes_before: tuple[str, ...]
    scopes_after: tuple[str, ...]
    identified_before: bool
    identified_after: bool
