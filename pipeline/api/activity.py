"""What sources did: /v1/partners/{partner}/activity of all, and .../sources/{source}/activity of one."""

from __future__ import annotations

import time

from fastapi import APIRouter, Depends, Request

from pipeline.api import tenancy
from pipeline.api.access import check_access
from pipeline.models.base import Model
from pipeline.query.activity import SourceActivity
from pipeline.query.reader import Reader

__all__ = ["all_sources", "router"]

router = tenancy.router("sources")
all_sources = APIRouter(
    prefix="/v1/partners/{partner}/activity", tags=["sources"], dependencies=[Depends(check_access)]
)


class SourceActivities(Model):
    """Of each source of a partner, in the order of their creation."""

    items: list[SourceActivity]


@router.get("/{source}/activity", response_model=SourceActivity, responses=tenancy.READ)
async def show_activity(partner: str, source: str, request: Request) -> SourceActivity:
    """When the source's last event came, its rates, what was rejected and why, and when its keys were used."""
    state = request.app.state.control.state
    tenancy.found(state, "source", state.sources, partner, source)
    reader: Reader = request.app.state.query
    return reader.activities.of(state.sources[partner, source], int(time.time() * 1000))


@all_sources.get("", response_model=SourceActivities, responses=tenancy.READ)
async def list_activity(partner: str, request: Request) -> SourceActivities:
    """The activity of all sources."""
    state = request.app.state.control.state
    reader: Reader = request.app.state.query
    now = int(time.time() * 1000)
    return SourceActivities(
        items=[reader.activities.of(source, now) for source in tenancy.owned(state, partner, state.sources)]
    )
