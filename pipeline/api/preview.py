"""/v1/partners/{partner}/segments/preview: a condition tried before it is saved."""

from __future__ import annotations

import asyncio
import time

from fastapi import Request
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.errors import ApiError, problems
from pipeline.api.segments import CONDITION, checked
from pipeline.api.turns import questions
from pipeline.control.members import wrong
from pipeline.models.base import Model
from pipeline.models.control import Segment
from pipeline.models.segment import Condition
from pipeline.query.preview import Preview, preview
from pipeline.query.reader import Reader

__all__ = ["router"]

router = tenancy.router("segments")
#: No segment's id: it has a character that none has.
_NAME = "the condition"


class NewPreview(Model):
    """What to try."""

    condition: Condition = Field(examples=[CONDITION])


@router.post("/preview", response_model=Preview, responses={**tenancy.READ, **problems(400, 503)})
async def try_condition(partner: str, body: NewPreview, request: Request) -> Preview:
    """How many customers a condition holds for, some of them, and how long it took to find out; nothing is saved."""
    state = request.app.state.control.state
    tenancy.of_partner(state, partner)
    checked(request, partner, body.condition)
    if fault := wrong(state.segments, partner, _NAME, body.condition, "$.condition"):
        raise ApiError(400, *fault)
    reader: Reader = request.app.state.query
    others = [each for each in state.segments.values() if each.partner == partner]
    tried = Segment.model_construct(
        partner=partner, id=_NAME, name=_NAME, condition=body.condition, version=1, since=0, created=0, updated=0
    )
    began = time.monotonic()
    async with questions():
        look = await reader.mirror(partner).look()
        events = await request.app.state.kept.dataset("events", partner)
        now = reader.counts.as_of or int(time.time() * 1000)
        found = await asyncio.to_thread(preview, tried, others, look, events, now)
    return found.model_copy(update={"seconds": round(time.monotonic() - began, 3)})
