"""/v1/partners/{partner}/traits: traits that are computed of what customers did."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.desk import AtDesk, Expected, free_id
from pipeline.api.event_types import types_of
from pipeline.api.segments import Remark, remarks
from pipeline.events.event_types import property_types
from pipeline.models.base import Label, Model, Slug
from pipeline.models.control import Trait, TraitEdit
from pipeline.models.trait import Computation
from pipeline.query.counts import Worth
from pipeline.query.reader import Reader
from pipeline.segments.validate import validate_computation

__all__ = ["router"]

router = tenancy.router("traits")
_SPEND = {
    "compute": "sum",
    "property": "total",
    "of": {"event": "Order Completed"},
    "window": {"rolling": "365d"},
}


class NewTrait(Model):
    """A computed trait to create."""

    id: Slug | None = Field(
        None, description="for ever; made from the name when missing. It stands among traits as `computed.<id>`"
    )
    name: Label = Field(examples=["Total spend"])
    computation: Computation = Field(examples=[_SPEND])
    description: Annotated[str, Field(max_length=2000)] = ""


class TraitView(Trait):
    """A computed trait, with remarks on it (in answers to changes), and what its values are worth."""

    remarks: list[Remark] = Field(default_factory=list)
    back_fill: float = Field(description="how much of the past has been read for it, 0 to 1: no value before 1")
    worth: Worth


class Traits(Model):
    """A partner's computed traits, in the order of their creation."""

    items: list[TraitView]


@router.get("", response_model=Traits, responses=tenancy.READ)
async def list_traits(partner: str, desk: AtDesk, request: Request) -> dict[str, Any]:
    """The partner's computed traits."""
    return {"items": [_view(request, each) for each in tenancy.owned(desk.state, partner, desk.state.traits)]}


@router.post("", status_code=201, response_model=TraitView, responses=tenancy.CREATE)
async def create_trait(
    partner: str, body: NewTrait, desk: AtDesk, request: Request, response: Response
) -> dict[str, Any]:
    """Create a computed trait; it is of what was before it as well, once that is read."""
    said = _checked(request, partner, body.computation)
    name = body.id or free_id(body.name, "trait", lambda taken: desk.state.taken("trait", partner, taken))
    made = await desk.change("trait.create", partner, body.model_dump(mode="json", by_alias=True) | {"id": name})
    response.headers["Location"] = f"/v1/partners/{partner}/traits/{made['id']}"
    return _told(request, response, made, said)


@router.get("/{trait}", response_model=TraitView, responses=tenancy.READ)
async def show_trait(partner: str, trait: str, desk: AtDesk, request: Request, response: Response) -> dict[str, Any]:
    """One computed trait."""
    return _told(request, response, tenancy.found(desk.state, "trait", desk.state.traits, partner, trait))


@router.patch("/{trait}", response_model=TraitView, responses=tenancy.CHANGE)
async def edit_trait(
    partner: str,
    trait: str,
    body: TraitEdit,
    desk: AtDesk,
    expect: Expected,
    request: Request,
    response: Response,
) -> dict[str, Any]:
    """Edit it. Fields left out stay; a new computation is made anew, and old values stay until it is."""
    said = [] if body.computation is None else _checked(request, partner, body.computation)
    data = body.model_dump(mode="json", by_alias=True, exclude_none=True)
    if body.computation is not None:
        data["computation"] = body.computation.model_dump(mode="json", by_alias=True)
    after = await desk.change("trait.edit", partner, data, entity=trait, expect=expect)
    return _told(request, response, after, said)


@router.delete("/{trait}", response_model=Trait, responses=tenancy.CHANGE)
async def remove_trait(partner: str, trait: str, desk: AtDesk, expect: Expected) -> dict[str, Any]:
    """Remove it: its values go, its id is never used again. Refused while a segment looks at it (409)."""
    return await desk.change("trait.remove", partner, {}, entity=trait, expect=expect)


def _told(
    request: Request, response: Response, entity: dict[str, Any], said: list[Remark] | None = None
) -> dict[str, Any]:
    tenancy.tagged(response, entity)
    return _view(request, Trait.model_validate(entity)) | {"remarks": said or []}


def _view(request: Request, trait: Trait) -> dict[str, Any]:
    reader: Reader = request.app.state.query
    counts = reader.counts.of(trait.partner, f"trait:{trait.id}", trait.version, int(time.time() * 1000))
    worth = counts.model_dump(include=set(Worth.model_fields))
    return trait.model_dump(mode="json", by_alias=True) | {"back_fill": counts.back_fill, "worth": worth}


def _checked(request: Request, partner: str, computation: Computation) -> list[Remark]:
    """As `segments.checked`."""
    return remarks(validate_computation(computation, property_types(types_of(request, partner))))
