"""/v1/partners/{partner}/rules: what they could say, what they would send, and a test that is really sent."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import Annotated, Any

import orjson
from aiokafka.errors import KafkaError
from fastapi import Request
from pydantic import Field, model_validator

from pipeline.api import tenancy
from pipeline.api.desk import AtDesk, Desk
from pipeline.api.errors import ApiError, problems
from pipeline.api.event_types import types_of
from pipeline.api.rules import NewRule, check_rule
from pipeline.control.secrets import SecretError
from pipeline.dispatch.catalogue import sample
from pipeline.dispatch.filter import variables
from pipeline.dispatch.rules import CompiledRule, customer_of, to_dispatch
from pipeline.models.base import Millis, Model, Slug
from pipeline.models.catalogue import EventType
from pipeline.models.control import Integration, Rule
from pipeline.models.customer import Customer
from pipeline.models.delivery import Delivery, Dispatch
from pipeline.query.delivered import watch_delivery
from pipeline.query.reader import Reader
from pipeline.sinks.base import SetupError
from pipeline.sinks.trial import request_of
from pipeline.stream.kafka import disconnect
from pipeline.stream.transaction import partition_for

__all__ = ["events", "router"]

router = tenancy.router("rules")
events = tenancy.router("rule-events")
_NOBODY = {
    "id": "sample|u|7",
    "user_id": "7",
    "anonymous_id": "a7",
    "email": "ada@shop.example",
    "phone": "+4930123456",
    "traits": {"first_name": "Ada", "last_name": "Lovelace", "email": "ada@shop.example", "phone": "+4930123456"},
}
_TEST_SECONDS = 20.0
#: Tests that wait for a tool at one time; each reads a partition of `deliveries` meanwhile.
_tests = asyncio.Semaphore(4)


class EventOfRules(Model):
    """An event that a rule may be of, what of it can be restricted, and a sample of what is sent."""

    event: str
    type: EventType
    restrictions: dict[str, list[Any]] = Field(
        description="property -> the values that it may have, where they are known"
    )
    sample: dict[str, Any]


class EventsOfRules(Model):
    """The partner's own event types first, then the catalogue's."""

    items: list[EventOfRules]


class RulePreview(Model):
    """A rule, by its id or as a draft, an event and a customer; samples where they are left out."""

    rule: Slug | None = None
    draft: NewRule | None = None
    properties: dict[str, Any] | None = Field(None, description="of the event; a sample of its type when left out")
    source: str = "sample"
    channel: str = "Web"
    customer: str | None = Field(None, description="user id, e-mail, phone, … of somebody there is; else a sample")

    @model_validator(mode="after")
    def _one(self) -> RulePreview:
        if (self.rule is None) == (self.draft is None):
            raise ValueError("give `rule` or `draft`")
        return self


class Previewed(Model):
    """``request``: what the tool would be sent, credentials masked; null where ``fires`` is false, ``why`` says why."""

    fires: bool
    why: str = ""
    dispatch: dict[str, Any]
    request: dict[str, Any] | None = None


class RuleTest(Model):
    """Who is to be told: a customer that there is, by e-mail or by phone."""

    email: Annotated[str, Field(min_length=3, max_length=320)] | None = None
    phone: Annotated[str, Field(min_length=3, max_length=40)] | None = None
    properties: dict[str, Any] | None = Field(None, description="of the event; a sample of its type when left out")

    @model_validator(mode="after")
    def _one(self) -> RuleTest:
        if (self.email is None) == (self.phone is None):
            raise ValueError("give `email` or `phone`")
        return self


@events.get("", response_model=EventsOfRules, responses=tenancy.READ)
async def events_of_rules(partner: str, request: Request) -> EventsOfRules:
    """Every event that a rule may be of, the payload it sends, and the restrictions that it supports."""
    tenancy.of_partner(request.app.state.control.state, partner)
    types = types_of(request, partner)
    items = []
    for name in types.names():
        kind = types.find(name)
        assert kind is not None
        values = {
            key: known.allowed or ([True, False] if known.type == "boolean" else [])
            for key, known in kind.properties.items()
            if known.type not in ("array", "object")
        }
        items.append(EventOfRules(event=name, type=kind, restrictions=values, sample=sample(kind)))
    return EventsOfRules(items=items)


@router.post("/preview", response_model=Previewed, responses={**tenancy.READ, **problems(400)})
async def preview_rule(partner: str, body: RulePreview, desk: AtDesk, request: Request) -> Previewed:
    """The exact request that a rule would have its tool sent for an event. Nothing is saved, and nothing is sent."""
    rule = _rule(partner, body, desk, request)
    tool = _tool(desk, rule)
    person = _NOBODY if body.customer is None else customer_of(_customer(request, partner, body.customer))
    dispatch = _dispatch(request, rule, tool, person, body.properties, body.source, body.channel)
    event, shown = dispatch.event, dispatch.model_dump(mode="json")
    compiled = CompiledRule(rule, tool)
    stopped = compiled.stopped_by(event["properties"])
    if stopped is not None:
        return Previewed(fires=False, why=f"the restriction of {stopped!r} does not admit it", dispatch=shown)
    if compiled.filter is not None and not compiled.filter.admits(variables(event, event["properties"], person)):
        return Previewed(fires=False, why="the filter is not true of it", dispatch=shown)
    try:
        asked = request_of(tool.kind, tool.settings, lambda: _secret(desk, tool), dispatch, dispatch.created)
    except (SetupError, SecretError, ValueError, TypeError) as error:
        return Previewed(fires=True, why=f"no request can be made of it: {error}", dispatch=shown)
    return Previewed(fires=True, dispatch=shown, request=asked.shown())


@router.post("/{rule}/test", response_model=Delivery, responses={**tenancy.READ, **problems(400, 409, 503, 504)})
async def send_test(partner: str, rule: str, body: RuleTest, desk: AtDesk, request: Request) -> Delivery:
    """Send a test event the whole real way, marked as a test; the answer has the request and what the tool said.

    The customer must exist. Restrictions and filter are not asked: it is the way to the tool that is tried.
    """
    found = Rule.model_validate(tenancy.found(desk.state, "rule", desk.state.rules, partner, rule))
    tool = _tool(desk, found)
    if not desk.state.partners[partner].sending:
        raise ApiError(409, "off", "the partner's `sending` is off: switch it on, or nothing is sent")
    if not tool.enabled:
        raise ApiError(409, "off", f"integration {tool.id!r} is off: switch it on, or nothing is sent")
    who = body.email or body.phone or ""
    customer = _customer(request, partner, who)
    dispatch = _dispatch(request, found, tool, customer_of(customer), body.properties, "test", "Test", test=True)
    return await _send(request, tool, dispatch, customer.id.encode())


async def _send(request: Request, tool: Integration, dispatch: Dispatch, key: bytes) -> Delivery:
    state = request.app.state
    lane = partition_for(key, state.settings.lanes)
    try:
        async with _tests, watch_delivery(state.kafka, lane, dispatch.id) as first:
            producer = state.kafka.producer()
            await producer.start()
            try:
                await producer.send_and_wait(tool.topic, dispatch.to_json(), key=key, partition=lane)
            finally:
                await disconnect(producer)
            delivery = await first(_TEST_SECONDS)
    except KafkaError as error:
        raise ApiError(503, "unavailable", "Kafka does not answer; try again") from error
    if delivery is None:
        message = (
            f"sent, but not tried within {_TEST_SECONDS:g} s: is a sink process running, is the integration paused or "
            "throttled, or does an earlier record of this customer wait? It is tried when its turn comes"
        )
        raise ApiError(504, "not_tried", message)
    return delivery


def _rule(partner: str, body: RulePreview, desk: Desk, request: Request) -> Rule:
    tenancy.of_partner(desk.state, partner)
    if body.rule is not None:
        return Rule.model_validate(tenancy.found(desk.state, "rule", desk.state.rules, partner, body.rule))
    draft = body.draft
    assert draft is not None
    check_rule(types_of(request, partner), draft.event, draft.restrictions, draft.filter, draft.mapping)
    now = _now()
    fields = draft.model_dump(mode="json") | {"id": draft.id or "draft", "partner": partner}
    return Rule(**fields, version=1, created=now, updated=now)


def _tool(desk: Desk, rule: Rule) -> Integration:
    found = tenancy.found(desk.state, "integration", desk.state.integrations, rule.partner, rule.integration)
    return Integration.model_validate(found)


def _customer(request: Request, partner: str, who: str) -> Customer:
    reader: Reader = request.app.state.query
    found = reader.customer(partner, who)
    if found is None or found.partner != partner:
        raise ApiError(
            404, "unknown_customer", f"no customer {who!r} of partner {partner!r}: a test goes to one there is"
        )
    return found


def _dispatch(
    request: Request,
    rule: Rule,
    tool: Integration,
    customer: dict[str, Any],
    properties: dict[str, Any] | None,
    source: str,
    channel: str,
    *,
    test: bool = False,
) -> Dispatch:
    now = _now()
    kind = types_of(request, rule.partner).find(rule.event)
    event = {
        "id": uuid.uuid4().hex,
        "partner": rule.partner,
        "source": source,
        "channel": channel,
        "type": "track",
        "name": rule.event,
        "time": now,
        "received": now,
        "properties": sample(kind) if properties is None else properties,
        "customer": customer["id"],
    }
    record = to_dispatch(CompiledRule(rule, tool), event, customer, now, test=test)
    return Dispatch.model_validate(orjson.loads(orjson.dumps(record)))


def _secret(desk: Desk, tool: Integration) -> str | None:
    if tool.secret is None:
        return None
    with contextlib.suppress(SecretError):
        return desk.secrets.get(tool.secret)
    return None


def _now() -> Millis:
    return int(time.time() * 1000)
