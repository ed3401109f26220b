"""/v1/partners/{partner}/sources/{source}/status: how a source that is fetched for is doing."""

from __future__ import annotations

import time

from fastapi import Request

from pipeline.api import tenancy
from pipeline.api.desk import AtDesk
from pipeline.api.errors import ApiError
from pipeline.bridges.registry import FEEDS
from pipeline.feeds.engine import consumers_of
from pipeline.feeds.status import SourceStatus, StatusBoard, status_of

__all__ = ["router"]

router = tenancy.router("sources")


@router.get("/{source}/status", response_model=SourceStatus, responses=tenancy.READ)
async def show_status(partner: str, source: str, desk: AtDesk, request: Request) -> SourceStatus:
    """Whether the bridge role runs it, and if not, why; how much it took, and what waits at the origin."""
    tenancy.found(desk.state, "source", desk.state.sources, partner, source)
    there = desk.state.sources[partner, source]
    feed = FEEDS.get(there.bridge)
    if feed is None:
        message = f"source {source} is not fetched for (its bridge is {there.bridge}); it is as it was switched"
        raise ApiError(404, "no_feed", message)
    board: StatusBoard = request.app.state.feeds
    return status_of(there, consumers_of(feed, there), board.of(partner, source), int(time.time() * 1000))
