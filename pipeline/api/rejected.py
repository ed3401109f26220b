"""/v1/partners/{partner}/rejected: what broke its contract: listed, searched, mended, and replayed."""

from __future__ import annotations

from base64 import b64encode
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any

from aiokafka.errors import KafkaError
from fastapi import Path, Query, Request
from pydantic import BeforeValidator, Field

from pipeline.api import tenancy
from pipeline.api.desk import AtDesk
from pipeline.api.errors import ApiError, problems
from pipeline.events.patch import PatchError, compile_patch
from pipeline.models.base import Millis, Model, Slug
from pipeline.models.failures import Replayed
from pipeline.models.patch import Operation, Patch
from pipeline.rejected.log import Choice, Found, RejectedError, RejectedLog, Where
from pipeline.rejected.replay import Outcome, Replay
from pipeline.stream.dead_letters import DeadLetterError, Place

__all__ = ["router"]

router = tenancy.router("rejected")
_READ = problems(400, 401, 403, 404, 503)
#: A call that takes longer ends with what is done, and tells where to go on.
_SECONDS = 15.0
_PLACE = r"^\d{1,6}@\d{1,18}$"
_BEFORE = r"^\d{1,15}\.\d{1,6}\.\d{1,18}$"
_CURSOR = r"^(?:\d{1,6}:\d{1,18})(?:,\d{1,6}:\d{1,18})*$"


def _moment(value: Any) -> Any:
    """RFC 3339 text, or milliseconds since 1970, as milliseconds; what is before 1970 as 1970."""
    if not isinstance(value, str) or value.isdecimal():
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("a time is RFC 3339 text such as 2026-01-31T12:00:00Z, or milliseconds since 1970") from None
    return max(0, int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000))


_Written = Annotated[str, Field(json_schema_extra={"format": "date-time"})] | Annotated[int, Field(ge=0)]
Moment = Annotated[int, BeforeValidator(_moment, json_schema_input_type=_Written), Field(ge=0, le=253_402_300_799_999)]
Source = Annotated[Slug | None, Query(description="only of this source")]
Reason = Annotated[str | None, Query(max_length=60, description="only for this reason")]
Text = Annotated[str | None, Query(min_length=1, max_length=200, description="in the detail or in the bytes, any case")]


class RejectedView(Model):
    """A rejection. `id` is its place; `received`: when its record came to the raw topic."""

    id: str
    at: Millis
    source: str
    reason: str
    detail: str
    path: str | None
    topic: str
    partition: int
    offset: int
    received: Millis
    withheld: bool


class RejectedList(Model):
    """The newest first. `before`: for the next page, null at the end; `looked`: how far back it was looked."""

    items: list[RejectedView]
    before: str | None
    looked: Millis


class RejectedWhole(RejectedView):
    """With its bytes: text where they are UTF-8, else base64 under `…_base64`."""

    key: str | None = None
    key_base64: str | None = None
    value: str | None = None
    value_base64: str | None = None
    headers: list[tuple[str, str]] = Field(description="names and values; what is no UTF-8 begins with `base64 `")
    replayed: Replayed | None = Field(None, description="when it was replayed, and to where")


class ReplayOrder(Model):
    """Which ones, and how. Either `items`, or conditions, all together; none at all stands for every one."""

    items: list[Annotated[str, Field(pattern=_PLACE)]] | None = Field(None, min_length=1, max_length=1000)
    source: Slug | None = None
    reason: Annotated[str, Field(max_length=60)] | None = None
    since: Moment | None = None
    until: Moment | None = None
    text: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    patch: list[Operation] | None = Field(
        None, min_length=1, max_length=50, description="applied to each, in order, before it is judged"
    )
    dry_run: bool = Field(False, description="say what would become of each, and change nothing")
    rate: float = Field(500, gt=0, le=10_000, description="records a second")
    limit: int = Field(500, ge=1, le=1000, description="of one call; `after` of the answer goes on")
    after: Annotated[str, Field(pattern=_CURSOR, max_length=20_000)] | None = None


class ReplayedItem(Model):
    """`replayed`: written, to `to`; `would`: would be, and become `events`; `before`: was replayed before; `refused`:
    would be rejected again, for `reason`; `lost`: can't be replayed at all."""

    id: str
    result: str
    to: str | None = None
    reason: str | None = None
    detail: str | None = None
    path: str | None = None
    events: list[dict[str, Any]] = Field(default_factory=list)


class ReplayAnswer(Model):
    """What became of each, and of how many what; `after`: where to go on, null when all are done."""

    items: list[ReplayedItem]
    counts: dict[str, int]
    after: str | None


@router.get("", response_model=RejectedList, responses=_READ)
async def list_rejected(
    partner: str,
    desk: AtDesk,
    request: Request,
    source: Source = None,
    reason: Reason = None,
    since: Annotated[Moment | None, Query(description="rejected at this time or later: RFC 3339 or ms")] = None,
    until: Annotated[Moment | None, Query(description="rejected before this time")] = None,
    text: Text = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[str | None, Query(pattern=_BEFORE, description="of the page before")] = None,
) -> dict[str, Any]:
    """The partner's rejections, the newest first. A search looks at a bounded number at a time: go on with `before`."""
    tenancy.of_partner(desk.state, partner)
    choice = Choice(partner, source=source, reason=reason, since=since, until=until, text=text)
    try:
        page = await _log(request).newest(choice, limit, before)
    except (RejectedError, DeadLetterError, KafkaError, OSError) as error:
        raise _refused(error) from error
    return {"items": [_row(found) for found in page.items], "before": page.before, "looked": page.looked}


@router.post("/replay", response_model=ReplayAnswer, responses=problems(400, 401, 403, 404, 413, 503))
async def replay_rejected(partner: str, body: ReplayOrder, desk: AtDesk, request: Request) -> dict[str, Any]:
    """Write them to their raw topics again, mended or as they came: those that would be accepted now.

    Each once, however often it is asked for.
    """
    tenancy.of_partner(desk.state, partner)
    try:
        mend = compile_patch(Patch(operations=body.patch)) if body.patch else None
    except PatchError as error:
        raise ApiError(400, "invalid", str(error), error.path) from None
    if body.items and (body.source, body.reason, body.since, body.until, body.text) != (None,) * 5:
        raise ApiError(400, "invalid", "name `items`, or say conditions; not both", "$.items")
    places = {where for item in body.items or () if (where := Where.parse(item)) is not None}
    choice = Choice(
        partner, body.source, body.reason, body.since, body.until, body.text, places if body.items else None
    )
    after = dict(_pair(each) for each in body.after.split(",")) if body.after else {}
    replay = Replay(_log(request), desk.state, partner, mend=mend, dry_run=body.dry_run, rate=body.rate, by=desk.actor)
    items: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    try:
        async with aclosing(replay.run(choice, after, limit=body.limit, seconds=_SECONDS)) as outcomes:
            async for outcome in outcomes:
                items.append(_outcome(outcome))
                counts[outcome.result] = counts.get(outcome.result, 0) + 1
                where = outcome.found.where
                after[where.partition] = max(where.offset + 1, after.get(where.partition, 0))
    except (RejectedError, DeadLetterError, KafkaError, OSError) as error:
        raise _refused(error) from error
    going = ",".join(f"{partition}:{offset}" for partition, offset in sorted(after.items()))
    return {"items": items, "counts": counts, "after": going if replay.more else None}


@router.get("/{item}", response_model=RejectedWhole, responses=_READ)
async def show_rejected(
    partner: str, item: Annotated[str, Path(pattern=_PLACE)], desk: AtDesk, request: Request
) -> dict[str, Any]:
    """One rejection, with its bytes."""
    tenancy.of_partner(desk.state, partner)
    where = Where.parse(item)
    assert where is not None
    try:
        log = _log(request)
        found = await log.find(partner, where)
        if found is None:
            raise ApiError(404, "not_found", f"partner {partner!r} has no rejection {item}; it may be too old")
        mark = (await log.replayed()).get(where)
    except (RejectedError, DeadLetterError, KafkaError, OSError) as error:
        raise _refused(error) from error
    return (
        _row(found)
        | _shown("key", found.key)
        | _shown("value", found.value)
        | {"headers": [(name, _text(content)) for name, content in found.headers], "replayed": mark}
    )


def _log(request: Request) -> RejectedLog:
    return RejectedLog(request.app.state.kafka)


def _refused(error: Exception) -> ApiError:
    if isinstance(error, RejectedError | DeadLetterError):
        return ApiError(503, "unavailable", str(error))
    return ApiError(503, "unavailable", f"Kafka does not answer ({type(error).__name__}); try again")


def _pair(text: str) -> tuple[int, int]:
    partition, _, offset = text.partition(":")
    return int(partition), int(offset)


def _row(found: Found) -> dict[str, Any]:
    return {
        "id": str(found.where),
        "at": found.at,
        "source": found.source,
        "reason": found.reason,
        "detail": found.detail,
        "path": found.path,
        "topic": found.original.topic,
        "partition": found.original.partition,
        "offset": found.original.offset,
        "received": found.received,
        "withheld": found.withheld,
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    to: Place | None = outcome.to
    return {
        "id": str(outcome.found.where),
        "result": outcome.result,
        "to": None if to is None else str(to),
        "reason": outcome.reason or None,
        "detail": outcome.detail or None,
        "path": outcome.path,
        "events": outcome.events,
    }


def _shown(name: str, content: bytes | None) -> dict[str, str | None]:
    if content is None:
        return {}
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(content).decode()}


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"base64 {b64encode(content).decode()}"
