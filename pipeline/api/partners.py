"""/v1/partners: the tenants."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from pipeline.api.access import check_access
from pipeline.api.desk import AtDesk, Expected, free_id
from pipeline.api.errors import problems
from pipeline.api.tenancy import CHANGE, CREATE, READ, of_partner, tagged
from pipeline.models.base import Label, Model, Slug
from pipeline.models.control import Partner, PartnerEdit

__all__ = ["router"]

router = APIRouter(prefix="/v1/partners", tags=["partners"], dependencies=[Depends(check_access)])


class NewPartner(Model):
    """A tenant to create. It brings its system source `Online Store`, with code and id `online-store`."""

    id: Slug | None = Field(None, description="for ever; made from the name when missing", examples=["acme"])
    name: Label = Field(examples=["Acme Outdoor"])


class Partners(Model):
    """All partners, in the order of their creation."""

    items: list[Partner]


@router.get("", response_model=Partners, responses=problems(400, 401, 403))
async def list_partners(desk: AtDesk) -> Partners:
    """All partners."""
    return Partners(items=list(desk.state.partners.values()))


@router.post("", status_code=201, response_model=Partner, responses=CREATE)
async def create_partner(body: NewPartner, desk: AtDesk, response: Response) -> dict[str, Any]:
    """Create a partner and its system source."""
    name = body.id or free_id(body.name, "partner", lambda taken: taken in desk.state.partners)
    made = await desk.change("partner.create", name, {"id": name, "name": body.name})
    response.headers["Location"] = f"/v1/partners/{name}"
    return tagged(response, made)


@router.get("/{partner}", response_model=Partner, responses=READ)
async def show_partner(partner: str, desk: AtDesk, response: Response) -> dict[str, Any]:
    """One partner."""
    return tagged(response, of_partner(desk.state, partner).model_dump(mode="json"))


@router.patch("/{partner}", response_model=Partner, responses=CHANGE)
async def edit_partner(
    partner: str, body: PartnerEdit, desk: AtDesk, expect: Expected, response: Response
) -> dict[str, Any]:
    """Rename it, or turn its master switch of dispatch (`sending`). Fields left out stay."""
    data = body.model_dump(mode="json", exclude_none=True)
    return tagged(response, await desk.change("partner.edit", partner, data, expect=expect))
