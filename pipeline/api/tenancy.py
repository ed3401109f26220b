"""What the routers of a partner's things share: their place, and finding what a path names."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Response

from pipeline.api.access import check_access
from pipeline.api.errors import ApiError, problems
from pipeline.control.reducer import ControlState
from pipeline.models.control import Integration, Mailing, Partner, PartnerEventType, Rule, Segment, Source, Trait

__all__ = ["CHANGE", "CREATE", "READ", "found", "of_partner", "owned", "router", "scope", "tagged"]

_Owned = TypeVar("_Owned", Source, Segment, Integration, Rule, Mailing, PartnerEventType, Trait)

#: The refusals that a route documents.
READ = problems(400, 401, 403, 404)
CREATE = problems(400, 401, 403, 404, 409, 413, 503, 504)
CHANGE = problems(400, 401, 403, 404, 409, 413, 428, 503, 504)


def router(noun: str) -> APIRouter:
    """For a partner's ``noun``, in the plural."""
    access = [Depends(check_access)]
    return APIRouter(prefix=f"/v1/partners/{{partner}}/{noun}", tags=[noun], dependencies=access)


def tagged(response: Response, entity: dict[str, Any]) -> dict[str, Any]:
    """The entity, with its version as the answer's ETag."""
    response.headers["ETag"] = f'"{entity["version"]}"'
    return entity


def scope(source: str | None, channel: str | None) -> str:
    """What a question is about: ``*``, ``s:<source>`` or ``c:<channel>``; 400 for both."""
    if source is not None and channel is not None:
        raise ApiError(400, "invalid", "ask by source or by channel, not by both")
    return f"s:{source}" if source is not None else f"c:{channel}" if channel is not None else "*"


def of_partner(state: ControlState, partner: str) -> Partner:
    """The partner, or 404."""
    there = state.partners.get(partner)
    if there is None:
        raise ApiError(404, "unknown_partner", f"no partner {partner!r}")
    return there


def owned(
    state: ControlState, partner: str, table: dict[tuple[str, str], _Owned], *, removed: bool = False
) -> list[_Owned]:
    """The partner's entities in the order of their creation, or 404. ``removed``: removed ones too."""
    of_partner(state, partner)
    return [e for e in table.values() if e.partner == partner and (removed or not getattr(e, "removed", False))]


def found(
    state: ControlState, noun: str, table: dict[tuple[str, str], _Owned], partner: str, name: str
) -> dict[str, Any]:
    """The entity as JSON, or 404; of a removed one it says so."""
    of_partner(state, partner)
    there = table.get((partner, name))
    if there is None or getattr(there, "removed", False):
        if state.taken(noun, partner, name):
            raise ApiError(404, "removed", f"{noun} {name!r} was removed")
        raise ApiError(404, f"unknown_{noun}", f"partner {partner!r} has no {noun} {name!r}")
    return there.model_dump(mode="json", by_alias=True)
