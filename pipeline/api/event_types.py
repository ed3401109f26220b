"""/v1/partners/{partner}/event-types: a partner's own event types, beside the catalogue and before it."""

from __future__ import annotations

from typing import Any

from fastapi import Query, Request, Response
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.desk import AtDesk, Expected, free_id
from pipeline.events.event_types import EventTypes as Known
from pipeline.models.base import Model, Slug
from pipeline.models.catalogue import Catalogue, EventType
from pipeline.models.control import EventName, EventTypeEdit, PartnerEventType

__all__ = ["router", "types_of"]

router = tenancy.router("event-types")
_EXAMPLE = {
    "title": "Trip booked",
    "description": "A trip was booked and paid for.",
    "properties": {"price": {"type": "number"}, "class": {"type": "string", "allowed": ["economy", "business"]}},
    "required": ["price"],
}


class NewEventType(Model):
    """An event type to declare."""

    id: Slug | None = Field(None, description="for ever; made from the event's name when missing")
    event: EventName = Field(
        description="the event's name, for ever; `… *` for all that begin so", examples=["Trip Booked"]
    )
    type: EventType = Field(examples=[_EXAMPLE])


class EventTypes(Model):
    """A partner's own event types, in the order of their creation; and those of the catalogue, if asked for."""

    items: list[PartnerEventType]
    catalogue: dict[str, EventType] = Field(default_factory=dict, description="event name -> its type, as shipped")


@router.get("", response_model=EventTypes, responses=tenancy.READ)
async def list_event_types(
    partner: str, desk: AtDesk, request: Request, catalogue: bool = Query(False, description="the shipped ones too")
) -> dict[str, Any]:
    """The partner's own event types."""
    shipped: Catalogue = request.app.state.catalogue
    own = tenancy.owned(desk.state, partner, desk.state.event_types)
    return {"items": own, "catalogue": shipped.events if catalogue else {}}


@router.post("", status_code=201, response_model=PartnerEventType, responses=tenancy.CREATE)
async def create_event_type(partner: str, body: NewEventType, desk: AtDesk, response: Response) -> dict[str, Any]:
    """Declare one. Sources that take the catalogue only take its events within 2 s."""
    name = body.id or free_id(body.event, "event", lambda taken: desk.state.taken("event_type", partner, taken))
    data = body.model_dump(mode="json", exclude_none=True, by_alias=True) | {"id": name}
    made = await desk.change("event_type.create", partner, data)
    response.headers["Location"] = f"/v1/partners/{partner}/event-types/{made['id']}"
    return tenancy.tagged(response, made)


@router.get("/{event_type}", response_model=PartnerEventType, responses=tenancy.READ)
async def show_event_type(partner: str, event_type: str, desk: AtDesk, response: Response) -> dict[str, Any]:
    """One event type."""
    there = tenancy.found(desk.state, "event_type", desk.state.event_types, partner, event_type)
    return tenancy.tagged(response, there)


@router.patch("/{event_type}", response_model=PartnerEventType, responses=tenancy.CHANGE)
async def edit_event_type(
    partner: str, event_type: str, body: EventTypeEdit, desk: AtDesk, expect: Expected, response: Response
) -> dict[str, Any]:
    """Replace the type whole; the event's name is fixed."""
    data = body.model_dump(mode="json", exclude_none=True, by_alias=True)
    after = await desk.change("event_type.edit", partner, data, entity=event_type, expect=expect)
    return tenancy.tagged(response, after)


@router.delete("/{event_type}", response_model=PartnerEventType, responses=tenancy.CHANGE)
async def remove_event_type(partner: str, event_type: str, desk: AtDesk, expect: Expected) -> dict[str, Any]:
    """Remove it; its id is never used again. One of the same name in the catalogue holds again."""
    return await desk.change("event_type.remove", partner, {}, entity=event_type, expect=expect)


def types_of(request: Request, partner: str) -> Known:
    """The event types that a partner's segments, traits and rules may be about: its own, and the catalogue's."""
    types = request.app.state.control.state.event_types.values()
    return Known([each for each in types if each.partner == partner], request.app.state.catalogue)
