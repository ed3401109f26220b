"""/v1/partners/{partner}/customers/{customer}: what is known of a customer, its timeline, all of it, and its end."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.erasures import ErasureView, ask_erasure
from pipeline.api.errors import ApiError, problems
from pipeline.api.turns import questions
from pipeline.models.base import Millis, Model
from pipeline.models.customer import Customer, Membership
from pipeline.query.kept import Kept
from pipeline.query.person import KEPT_OF_A_PERSON, PersonFile, person_file
from pipeline.query.reader import Reader
from pipeline.segments.compile import Program

__all__ = ["router"]

router = tenancy.router("customers")
#: So long an answer waits for the lane that erases.
_ERASED_SECONDS = 10.0


class CustomerView(Model):
    """A customer: identifiers (canonical one first), traits, and memberships with their since-when."""

    id: str
    identifiers: list[str]
    traits: dict[str, Any]
    cut: list[str] = Field(
        default_factory=list,
        description="computed traits, by id, that are of the newest events alone, since there were more",
    )
    segments: dict[str, Membership]
    first_seen: Millis
    last_seen: Millis


class Timeline(Model):
    """The newest events first, of the days that `history` keeps."""

    customer: str
    items: list[dict[str, Any]] = Field(description="events as on `history`, each with its source and channel")
    next: str | None = Field(None, description="pass it as `before` for older ones; null at the end")


@router.get("/{customer:path}/timeline", response_model=Timeline, responses=tenancy.READ)
async def timeline(
    partner: str,
    customer: str,
    request: Request,
    source: Annotated[str | None, Query(description="only of this source id")] = None,
    channel: Annotated[str | None, Query(description="only of this channel")] = None,
    name: Annotated[str | None, Query(description="only events of this name")] = None,
    before: Annotated[str | None, Query(description="`next` of the page before", pattern="^[0-9a-f]{16,2000}$")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """A customer's events over all sources and channels, or of one, the newest first."""
    found = _customer(request, partner, customer)
    reader: Reader = request.app.state.query
    wanted = {
        key: value for key, value in (("source", source), ("channel", channel), ("name", name)) if value is not None
    }
    try:
        items, following = reader.timeline(found.id, int(time.time() * 1000), limit=limit, before=before, wanted=wanted)
    except ValueError:
        raise ApiError(400, "invalid", "`before` is the `next` of the page before") from None
    return {"customer": found.id, "items": items, "next": following}


@router.get("/{customer:path}/export", response_model=PersonFile, responses={**tenancy.READ, **problems(503)})
async def export(partner: str, customer: str, request: Request) -> PersonFile:
    """All that is kept of a customer: what is known of it, each event, entry, exit and delivery (GDPR, article 15)."""
    found = _customer(request, partner, customer)
    reader: Reader = request.app.state.query
    kept: Kept = request.app.state.kept
    async with questions():
        tables = {name: await kept.dataset(name, partner) for name in KEPT_OF_A_PERSON}
        return await asyncio.to_thread(person_file, found, reader.selves(found.id), tables, reader.counts.as_of)


@router.delete(
    "/{customer:path}",
    response_model=ErasureView,
    responses={202: {"model": ErasureView, "description": "Asked for, and not done yet."}, **tenancy.READ},
)
async def erase(partner: str, customer: str, request: Request, response: Response) -> ErasureView:
    """Erase a customer, by any of its identifiers, with all that it did until now (GDPR, article 17).

    It is out of all counts when this is answered with 200; the answer says what is left to go, and by when.
    """
    found = _customer(request, partner, customer)
    state = request.app.state
    now = int(time.time() * 1000)
    name = await ask_erasure(state.kafka, state.settings.lanes, state.secrets, found.id, now)
    kept: Kept = state.kept
    told = await kept.erasures.wait(partner, name, _ERASED_SECONDS)
    if told is None:
        response.status_code = 202
        return ErasureView.asked(name, found, now)
    return ErasureView.of(told, kept)


@router.get("/{customer:path}", response_model=CustomerView, responses=tenancy.READ)
async def show_customer(partner: str, customer: str, request: Request) -> dict[str, Any]:
    """A customer by canonical id, user id, anonymous id, e-mail or phone, tried in this order."""
    found = _customer(request, partner, customer)
    return found.model_dump(include=set(CustomerView.model_fields)) | {"cut": _cut(request, found)}


def _cut(request: Request, customer: Customer) -> list[str]:
    reader: Reader = request.app.state.query
    traits = [each for each in request.app.state.control.state.traits.values() if each.partner == customer.partner]
    record = reader.record(customer.id) if traits else None
    if record is None:
        return []
    now = reader.counts.as_of or int(time.time() * 1000)
    return [each.name for each in Program([], traits).traits.values() if each.is_cut(record, now)]


def _customer(request: Request, partner: str, customer: str) -> Customer:
    tenancy.of_partner(request.app.state.control.state, partner)
    reader: Reader = request.app.state.query
    found = reader.customer(partner, customer)
    if found is None or found.partner != partner:
        raise ApiError(404, "not_found", f"no customer {customer!r} of partner {partner!r}")
    return found
