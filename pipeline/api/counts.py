"""/v1/partners/{partner}/segments/{segment}/counts and /members: how many, and who."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.errors import ApiError
from pipeline.models.base import Millis, Model
from pipeline.query.counts import SegmentCounts
from pipeline.query.reader import Reader

__all__ = ["router"]

router = tenancy.router("segments")


class Member(Model):
    """A customer in the segment. ``scopes``: ``*``, ``s:<source>``, ``c:<channel>``, where it counts."""

    customer: str
    since: Millis
    scopes: list[str]


class Members(Model):
    """One page; ``next``: pass it as ``after`` for the page behind it, null at the end."""

    items: list[Member]
    next: str | None = Field(None)


@router.get("/{segment}/counts", response_model=SegmentCounts, responses=tenancy.READ)
async def counts(partner: str, segment: str, request: Request) -> SegmentCounts:
    """How many customers are in the segment: in all, per source and per channel, and what the numbers are worth.

    A source's figure counts customers who satisfy the segment by that source's events alone.
    """
    found = _segment(request, partner, segment)
    reader: Reader = request.app.state.query
    return reader.counts.of(partner, segment, found["version"], int(time.time() * 1000))


@router.get("/{segment}/members", response_model=Members, responses=tenancy.READ)
async def members(
    partner: str,
    segment: str,
    request: Request,
    source: Annotated[str | None, Query(description="only who counts for this source id")] = None,
    channel: Annotated[str | None, Query(description="only who counts for this channel")] = None,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Who is in the segment, in order of customer id."""
    _segment(request, partner, segment)
    if source is not None and channel is not None:
        raise ApiError(400, "invalid", "ask by source or by channel, not by both")
    scope = f"s:{source}" if source is not None else f"c:{channel}" if channel is not None else "*"
    reader: Reader = request.app.state.query
    items, following = reader.members(partner, segment, scope=scope, after=after, limit=limit)
    return {"items": items, "next": following}


def _segment(request: Request, partner: str, segment: str) -> dict[str, Any]:
    state = request.app.state.control.state
    return tenancy.found(state, "segment", state.segments, partner, segment)
