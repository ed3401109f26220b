"""/v1/partners/{partner}/mailings: a segment sent whole to an integration."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.desk import AtDesk, Desk, Expected, free_id
from pipeline.models.base import Millis, Model, Slug
from pipeline.models.control import Mailing, MailingEdit
from pipeline.query.mailings import MailingState
from pipeline.query.reader import Reader

__all__ = ["router"]

router = tenancy.router("mailings")


class NewMailing(Model):
    """What to send, to which tool, how fast."""

    id: Slug | None = Field(None, description="for ever; made from the segment when missing")
    segment: Slug = Field(examples=["jackets"])
    integration: Slug = Field(examples=["our-crm"])
    name: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        "Segment Member", description="of the event that the tool is told of each member"
    )
    rate: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="customers a second; null: as fast as can be"
    )
    paused: bool = Field(False, description="it begins when it is resumed")


class MailingView(Mailing):
    """A mailing, and how far it is. ``waits``: what it waits for, if anything."""

    progress: MailingState
    waits: str | None = None


class DryRun(Model):
    """Nothing was made: who would be told, as of now."""

    customers: int
    as_of: Millis | None
    complete: bool


class Mailings(Model):
    """A partner's mailings, in the order of their creation."""

    items: list[MailingView]


@router.get("", response_model=Mailings, responses=tenancy.READ)
async def list_mailings(partner: str, desk: AtDesk, request: Request) -> Mailings:
    """The partner's mailings, those too that are done."""
    items = tenancy.owned(desk.state, partner, desk.state.mailings)
    return Mailings(items=[_view(each, desk, request) for each in items])


@router.post(
    "",
    status_code=201,
    response_model=MailingView | DryRun,
    responses={200: {"model": DryRun, "description": "A dry run."}, **tenancy.CREATE},
)
async def create_mailing(
    partner: str,
    body: NewMailing,
    desk: AtDesk,
    request: Request,
    response: Response,
    dry_run: Annotated[bool, Query(description="say how many it would be, and make nothing")] = False,
) -> Any:
    """Send a segment whole: each member once, as an event of its own, in the order of ids, beside all else.

    A member is who is one when its turn comes. It goes only while the integration, and the partner's `sending`, are on.
    """
    if dry_run:
        segment = tenancy.found(desk.state, "segment", desk.state.segments, partner, body.segment)
        tenancy.found(desk.state, "integration", desk.state.integrations, partner, body.integration)
        reader: Reader = request.app.state.query
        counts = reader.counts.of(partner, body.segment, segment["version"], int(time.time() * 1000))
        response.status_code = 200
        return DryRun(customers=counts.total.customers, as_of=counts.as_of, complete=counts.complete)
    name = body.id or free_id(body.segment, "mailing", lambda taken: desk.state.taken("mailing", partner, taken))
    made = await desk.change("mailing.create", partner, body.model_dump(mode="json") | {"id": name})
    response.headers["Location"] = f"/v1/partners/{partner}/mailings/{made['id']}"
    return _told(made, desk, request, response)


@router.get("/{mailing}", response_model=MailingView, responses=tenancy.READ)
async def show_mailing(partner: str, mailing: str, desk: AtDesk, request: Request, response: Response) -> MailingView:
    """One mailing, and how far it is."""
    found = tenancy.found(desk.state, "mailing", desk.state.mailings, partner, mailing)
    return _told(found, desk, request, response)


@router.patch("/{mailing}", response_model=MailingView, responses=tenancy.CHANGE)
async def edit_mailing(
    partner: str, mailing: str, body: MailingEdit, desk: AtDesk, expect: Expected, request: Request, response: Response
) -> MailingView:
    """Pause or resume it, or change its rate; acts within 2 s."""
    data = body.model_dump(mode="json", exclude_none=True)
    edited = await desk.change("mailing.edit", partner, data, entity=mailing, expect=expect)
    return _told(edited, desk, request, response)


@router.delete("/{mailing}", response_model=Mailing, responses=tenancy.CHANGE)
async def remove_mailing(partner: str, mailing: str, desk: AtDesk, expect: Expected) -> dict[str, Any]:
    """End it: whose turn has not come is not told. Its id is never used again."""
    return await desk.change("mailing.remove", partner, {}, entity=mailing, expect=expect)


def _told(entity: dict[str, Any], desk: Desk, request: Request, response: Response) -> MailingView:
    return _view(Mailing.model_validate(tenancy.tagged(response, entity)), desk, request)


def _view(mailing: Mailing, desk: Desk, request: Request) -> MailingView:
    reader: Reader = request.app.state.query
    progress = reader.mailings.of(mailing.partner, mailing.id)
    waits = None if progress.done else _waits(mailing, desk, reader)
    return MailingView(**mailing.model_dump(), progress=progress, waits=waits)


def _waits(mailing: Mailing, desk: Desk, reader: Reader) -> str | None:
    state, partner = desk.state, mailing.partner
    tool = state.integrations.get((partner, mailing.integration))
    segment = state.segments.get((partner, mailing.segment))
    if mailing.paused:
        return "it is paused: resume it"
    if not state.partners[partner].sending:
        return "the partner's `sending` is off"
    if tool is None or tool.removed or not tool.enabled:
        return f"integration {mailing.integration!r} is off, or was removed"
    if segment is None or segment.archived:
        return f"segment {mailing.segment!r} is archived, or was removed"
    counts = reader.counts.of(partner, segment.id, segment.version, int(time.time() * 1000))
    return None if counts.back_fill == 1 else f"the past of segment {mailing.segment!r} is being read"
