"""/v1/partners/{partner}/segments: the definitions. Counts and members are the query room's."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.desk import AtDesk, Expected, free_id
from pipeline.api.errors import ApiError
from pipeline.api.event_types import types_of
from pipeline.events.event_types import property_types
from pipeline.models.base import Label, Model, Slug
from pipeline.models.control import Segment, SegmentEdit4
from pipeline.models.segment import Condition
from pipeline.segments.validate import Fault, validate

__all__ = ["CONDITION", "Remark", "checked", "remarks", "router"]

router = tenancy.router("segments")
#: One that shows what a condition is.
CONDITION = {
    "event": "Category Viewed",
    "where": [{"property": "category", "value": "Jacket"}],
    "source": "online-store",
    "count": {"op": ">=", "value": 1},
    "window": {"rolling": "30d"},
}


class NewSegment(Model):
    """A segment to create."""

    id: Slug | None = Field(None, description="for ever; made from the name when missing")
    name: Label = Field(examples=["Viewed jackets"])
    condition: Condition = Field(examples=[CONDITION])
    description: Annotated[str, Field(max_length=2000)] = ""


class Remark(Model):
    """About a condition that is allowed, but perhaps not what was meant."""

    path: str
    level: str
    message: str


class SegmentView(Segment):
    """A segment, with remarks on its condition (in answers to changes)."""

    remarks: list[Remark] = Field(default_factory=list)


class Segments(Model):
    """A partner's segments, in the order of their creation."""

    items: list[Segment]


@router.get("", response_model=Segments, responses=tenancy.READ)
async def list_segments(partner: str, desk: AtDesk) -> dict[str, Any]:
    """The partner's segments."""
    return {"items": tenancy.owned(desk.state, partner, desk.state.segments)}


@router.post("", status_code=201, response_model=SegmentView, responses=tenancy.CREATE)
async def create_segment(
    partner: str, body: NewSegment, desk: AtDesk, request: Request, response: Response
) -> dict[str, Any]:
    """Create a segment; it counts what was before it as well, once that is read."""
    said = checked(request, partner, body.condition)
    name = body.id or free_id(body.name, "segment", lambda taken: desk.state.taken("segment", partner, taken))
    data = body.model_dump(mode="json", by_alias=True) | {"id": name}
    made = await desk.change("segment.create", partner, data)
    response.headers["Location"] = f"/v1/partners/{partner}/segments/{made['id']}"
    return tenancy.tagged(response, made) | {"remarks": said}


@router.get("/{segment}", response_model=SegmentView, responses=tenancy.READ)
async def show_segment(partner: str, segment: str, desk: AtDesk, response: Response) -> dict[str, Any]:
    """One segment."""
    return tenancy.tagged(response, tenancy.found(desk.state, "segment", desk.state.segments, partner, segment))


@router.patch("/{segment}", response_model=SegmentView, responses=tenancy.CHANGE)
async def edit_segment(
    partner: str,
    segment: str,
    body: SegmentEdit4,
    desk: AtDesk,
    expect: Expected,
    request: Request,
    response: Response,
) -> dict[str, Any]:
    """Edit or archive it. Fields left out stay; a new condition counts anew, and old members leave."""
    said = [] if body.condition is None else checked(request, partner, body.condition)
    data = body.model_dump(mode="json", by_alias=True, exclude_none=True)
    if body.condition is not None:
        data["condition"] = body.condition.model_dump(mode="json", by_alias=True)
    after = await desk.change("segment.edit", partner, data, entity=segment, expect=expect)
    return tenancy.tagged(response, after) | {"remarks": said}


@router.delete("/{segment}", response_model=SegmentView, responses=tenancy.CHANGE)
async def remove_segment(partner: str, segment: str, desk: AtDesk, expect: Expected) -> dict[str, Any]:
    """Remove it: its members leave, its id is never used again."""
    return await desk.change("segment.remove", partner, {}, entity=segment, expect=expect)


def checked(request: Request, partner: str, condition: Condition) -> list[Remark]:
    """What the catalogue, the partner's event types and its computed traits say of the condition; errors are refused.

    Here and not in the reducer: the catalogue grows, and the verdict on a stored command must not change.
    """
    state = request.app.state.control.state
    computed = [trait.id for trait in tenancy.owned(state, partner, state.traits)]
    return remarks(validate(condition, property_types(types_of(request, partner)), computed=computed))


def remarks(faults: list[Fault]) -> list[Remark]:
    """What was found, where nothing of it is an error: that is refused."""
    for fault in faults:
        if fault.level == "error":
            raise ApiError(400, "invalid", fault.message, fault.path)
    return [Remark(path=path, level=level, message=message) for path, level, message in faults]
