"""/v1/partners/{partner}/deliveries: what tools were told, and what they said; telling them again."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC
from typing import Annotated, Any

import orjson
from aiokafka.errors import KafkaError
from fastapi import Query, Request
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.desk import AtDesk, Desk
from pipeline.api.errors import ApiError, problems
from pipeline.api.rejected import Moment
from pipeline.api.turns import questions
from pipeline.lake.kinds import KINDS
from pipeline.models.base import Millis, Model, Slug
from pipeline.models.control import Integration
from pipeline.models.delivery import Delivery, Undeliverable
from pipeline.query.delivered import attempts
from pipeline.query.kept import Kept
from pipeline.query.sql import Limits, quoted, run
from pipeline.sinks.again import Again, AgainError, Choice, Done
from pipeline.stream.transaction import partition_for

__all__ = ["integrations", "router"]

router = tenancy.router("deliveries")
integrations = tenancy.router("integrations")
_READ = {**tenancy.READ, **problems(400, 503)}
_DAY_MS = 86_400_000
#: Of the sink's clock, that dates attempts, and the broker's, that dates records.
_SKEW_MS = 300_000
_LIMITS = Limits(rows=1000, answer=64 << 20)


class Deliveries(Model):
    """Attempts, the newest first. ``next``: pass it as `until` for older ones; null at the end."""

    items: list[Delivery]
    next: Millis | None


class GivenUp(Model):
    """A record that the tool never took."""

    id: str
    undeliverable: Undeliverable
    redriven: bool


class GivenUpList(Model):
    """The newest first."""

    items: list[GivenUp]


class RedriveAsk(Model):
    """Those of ``ids``, or all that wait, of a reason or of any."""

    ids: list[Annotated[str, Field(pattern=r"^\d{1,6}@\d{1,18}$")]] | None = Field(None, max_length=1000)
    reason: str | None = None
    dry_run: bool = False
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000


class ReplayAsk(Model):
    """What an integration was told, again; by when it was to be told, and of whom, by which rule, of what."""

    since: Moment | None = None
    until: Moment | None = None
    customer: str | None = Field(None, description="its canonical id")
    rule: Slug | None = None
    name: str | None = Field(None, description="of the event, the rule's prefix before it")
    rate: Annotated[float, Field(gt=0, le=10_000)] = 100.0
    dry_run: bool = False
    limit: Annotated[int, Field(ge=1, le=100_000)] = 1000
    after: dict[int, int] = Field(default_factory=dict, description="`next` of the answer before")


class DoneView(Model):
    """``found``: that are meant; ``sent``: put to be told again, with their dedup keys; ``before``: redriven before;
    ``lost``: that nobody can read. ``next``: pass it as `after` (a replay) where there is more; empty at the end."""

    found: int
    sent: int
    before: int
    lost: int
    next: dict[int, int]

    @classmethod
    def of(cls, done: Done) -> DoneView:
        """As it was done."""
        return cls(found=done.found, sent=done.sent, before=done.before, lost=done.lost, next=done.next)


@router.get("", response_model=Deliveries, responses=_READ)
async def list_deliveries(
    partner: str,
    request: Request,
    integration: Annotated[Slug | None, Query(description="only to this one")] = None,
    customer: Annotated[str | None, Query(max_length=2000, description="only of this canonical id")] = None,
    rule: Annotated[Slug | None, Query(description="only by this rule")] = None,
    outcome: Annotated[str | None, Query(pattern="^[a-z]{1,20}$", description="ok, transient, invalid, …")] = None,
    id: Annotated[str | None, Query(max_length=200, description="all attempts of one record")] = None,
    since: Annotated[Moment | None, Query(description="a day before `until` when left out")] = None,
    until: Annotated[Moment | None, Query(description="now when left out")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Deliveries:
    """The delivery log: each attempt, and what its answer was taken for. One record's own has requests and answers."""
    tenancy.of_partner(request.app.state.control.state, partner)
    end = int(time.time() * 1000) + 1 if until is None else until
    start = (0 if id is not None else end - _DAY_MS) if since is None else since
    conditions = [f"time >= make_timestamptz({start * 1000})", f"time < make_timestamptz({end * 1000})"]
    for name, value in (
        ("integration", integration),
        ("customer", customer),
        ("rule", rule),
        ("outcome", outcome),
        ("id", id),
    ):
        if value is not None:
            conditions.append(f"{name} = {quoted(value)}")
    kept: Kept = request.app.state.kept
    query = f"SELECT * FROM deliveries WHERE {' AND '.join(conditions)} ORDER BY time DESC LIMIT {limit}"
    async with questions():
        table = await kept.dataset("deliveries", partner)
        found, _ = await asyncio.to_thread(run, query, {"deliveries": table}, _LIMITS)
    items = [_delivery(row, partner) for row in found.to_pylist()]
    return Deliveries(items=items, next=items[-1].started if len(items) == limit else None)


@router.get("/{id}", response_model=Deliveries, responses=_READ)
async def show_delivery(partner: str, id: str, request: Request) -> Deliveries:
    """All attempts of one record, the newest first, with requests (credentials masked) and answers; of 30 days."""
    found = await list_deliveries(partner, request, id=id, limit=1000)
    if not found.items:
        raise ApiError(404, "not_found", f"no attempt of {id!r} is in the delivery log")
    state = request.app.state
    last = found.items[-1]
    lane = partition_for(last.customer.encode(), state.settings.lanes)
    try:
        told = await attempts(state.kafka, lane, id, last.started - _SKEW_MS)
    except KafkaError as error:
        raise ApiError(503, "unavailable", "Kafka does not answer; try again") from error
    mine = [each for each in told if each.partner == partner]
    return Deliveries(items=sorted(mine, key=lambda each: -each.started) or found.items, next=None)


@router.post("/{id}/resend", response_model=DoneView, responses=_READ)
async def resend(partner: str, id: str, desk: AtDesk, request: Request) -> DoneView:
    """Tell the tool of one record again, with the dedup key that it had."""
    found = await list_deliveries(partner, request, id=id, limit=1)
    if not found.items:
        raise ApiError(404, "not_found", f"no attempt of {id!r} is in the delivery log")
    delivery = found.items[0]
    choice = Choice(ids=[id], until=delivery.started + _SKEW_MS)
    done = await _replay(desk, request, partner, delivery.integration, choice, {})
    if not done.found:
        raise ApiError(404, "gone", "the record is not in the dispatch topic any more, which keeps 7 days")
    return DoneView.of(done)


@integrations.post("/{integration}/replay", response_model=DoneView, responses=_READ)
async def replay(partner: str, integration: str, body: ReplayAsk, desk: AtDesk, request: Request) -> DoneView:
    """Tell a tool again of what it was told, in a range of time, at a rate; a dry run counts first."""
    choice = Choice(body.since, body.until, body.customer, body.rule, body.name)
    asked = {"dry_run": body.dry_run, "limit": body.limit, "rate": body.rate}
    return DoneView.of(await _replay(desk, request, partner, integration, choice, body.after, **asked))


@integrations.get("/{integration}/undeliverable", response_model=GivenUpList, responses=_READ)
async def list_undeliverable(
    partner: str,
    integration: str,
    desk: AtDesk,
    request: Request,
    reason: Annotated[str | None, Query(pattern="^[a-z]{1,20}$", description="invalid, exhausted, unreadable")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> GivenUpList:
    """What the tool never took, and why."""
    again = Again(request.app.state.kafka, _integration(desk, partner, integration))
    try:
        found = await again.given_up(limit, reason)
    except (AgainError, KafkaError, OSError) as error:
        raise ApiError(503, "unavailable", str(error)) from None
    return GivenUpList(items=[GivenUp(id=e.id, undeliverable=e.what, redriven=e.redriven) for e in found])


@integrations.post("/{integration}/redrive", response_model=DoneView, responses=_READ)
async def redrive(partner: str, integration: str, body: RedriveAsk, desk: AtDesk, request: Request) -> DoneView:
    """Tell the tool again of what it never took. Each once, however often this is asked."""
    again = Again(request.app.state.kafka, _integration(desk, partner, integration))
    try:
        return DoneView.of(await again.redrive(body.ids, body.reason, dry_run=body.dry_run, limit=body.limit))
    except (AgainError, KafkaError, OSError) as error:
        raise ApiError(503, "unavailable", str(error)) from None


async def _replay(
    desk: Desk, request: Request, partner: str, integration: str, choice: Choice, after: dict[int, int], **asked: Any
) -> Done:
    again = Again(request.app.state.kafka, _integration(desk, partner, integration))
    try:
        return await again.replay(choice, after, **asked)
    except (AgainError, KafkaError, OSError) as error:
        raise ApiError(503, "unavailable", str(error)) from None


def _integration(desk: Desk, partner: str, name: str) -> Integration:
    return Integration.model_validate(tenancy.found(desk.state, "integration", desk.state.integrations, partner, name))


def _delivery(row: dict[str, Any], partner: str) -> Delivery:
    """A row of the table as the record that it was."""
    json = KINDS["deliveries"].json
    fields = {name: orjson.loads(value) if name in json and value else value for name, value in row.items()}
    moment = fields.pop("time")
    started = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    known = {name: value for name, value in fields.items() if name in Delivery.model_fields and value is not None}
    return Delivery(**known | {"partner": partner, "started": started})
