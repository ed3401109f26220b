"""/v1/partners/{partner}/segments/{segment}: counts, history, members, overlap, explain: how many, who, why."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.errors import ApiError, problems
from pipeline.api.turns import questions
from pipeline.models.base import Millis, Model
from pipeline.query.counts import SegmentCounts
from pipeline.query.explanation import Explanation, explanation
from pipeline.query.history import MOST_POINTS, STEPS, SizeHistory, Step, history
from pipeline.query.overlap import Group, Overlap, overlap
from pipeline.query.reader import Reader

__all__ = ["router"]

router = tenancy.router("segments")
_DAY_MS = 86_400_000
#: What is shown where nobody says from when.
_BACK: dict[Step, int] = {"minute": _DAY_MS, "hour": 90 * _DAY_MS, "day": 730 * _DAY_MS}


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


@router.get("/{segment}/history", response_model=SizeHistory, responses={**tenancy.READ, **problems(503)})
async def show_history(
    partner: str,
    segment: str,
    request: Request,
    by: Annotated[Step, Query(description="a point for each; days are days of UTC")] = "hour",
    first: Annotated[
        Millis | None, Query(alias="from", description="a day, 90 days or 2 years ago when missing")
    ] = None,
    to: Annotated[Millis | None, Query(description="all that is known when missing")] = None,
) -> SizeHistory:
    """How large the segment was, in all and per source and channel, and how many came and went.

    To the last minute that is over.
    """
    _segment(request, partner, segment)
    reader: Reader = request.app.state.query
    known = (reader.counts.as_of or 0) // STEPS["minute"] * STEPS["minute"]
    end = known if to is None else min(to, known)
    start = end - _BACK[by] if first is None else first
    if not 0 <= start <= end:
        raise ApiError(400, "invalid", f"`from` must be before {end}, the last minute that is known", "$.from")
    if (end - start) // STEPS[by] >= MOST_POINTS:
        raise ApiError(400, "invalid", f"at most {MOST_POINTS:,} points; ask for less time, or longer steps", "$.from")
    async with questions():
        sizes = await request.app.state.kept.dataset("segment_sizes", partner)
        return await asyncio.to_thread(history, sizes, segment, by, start, end)


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
    reader: Reader = request.app.state.query
    items, following = reader.members(partner, segment, scope=tenancy.scope(source, channel), after=after, limit=limit)
    return {"items": items, "next": following}


@router.get("/{segment}/overlap", response_model=Overlap, responses=tenancy.READ)
async def show_overlap(
    partner: str,
    segment: str,
    request: Request,
    source: Annotated[str | None, Query(description="the first group: by this source's events alone")] = None,
    channel: Annotated[str | None, Query(description="the first group: by this channel's alone")] = None,
    with_segment: Annotated[str | None, Query(description="the second group's segment; the same when missing")] = None,
    with_source: Annotated[str | None, Query(description="the second group: by this source's events alone")] = None,
    with_channel: Annotated[str | None, Query(description="the second group: by this channel's alone")] = None,
) -> Overlap:
    """Two sources or channels of a segment, or two segments, beside each other: only one, both, either."""
    reader: Reader = request.app.state.query
    now = int(time.time() * 1000)
    groups = (
        Group(segment=segment, scope=tenancy.scope(source, channel)),
        Group(segment=with_segment or segment, scope=tenancy.scope(with_source, with_channel)),
    )
    if groups[0] == groups[1]:
        raise ApiError(400, "invalid", "say what to compare with: with_segment, with_source or with_channel")
    found = [_segment(request, partner, group.segment) for group in groups]
    worth = tuple(reader.counts.of(partner, each["id"], each["version"], now) for each in found)
    return await overlap(reader, partner, *groups, worth)


@router.get("/{segment}/explain/{customer:path}", response_model=Explanation, responses=tenancy.READ)
async def show_explanation(partner: str, segment: str, customer: str, request: Request) -> Explanation:
    """Whether a customer is in the segment, since when, and because of which events."""
    _segment(request, partner, segment)
    found = explanation(
        request.app.state.query,
        request.app.state.control.state,
        partner,
        segment,
        customer,
        int(time.time() * 1000),
    )
    if found is None:
        raise ApiError(404, "not_found", f"no customer {customer!r} of partner {partner!r}")
    return found


def _segment(request: Request, partner: str, segment: str) -> dict[str, Any]:
    state = request.app.state.control.state
    return tenancy.found(state, "segment", state.segments, partner, segment)
