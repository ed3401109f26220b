"""/v1/partners/{partner}/rules: which event goes to which integration. Trying them is `rule_trials`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.desk import AtDesk, Desk, Expected, free_id
from pipeline.api.errors import ApiError
from pipeline.api.event_types import types_of
from pipeline.dispatch.catalogue import check_restrictions
from pipeline.dispatch.conflicts import conflicts
from pipeline.dispatch.filter import Filter, FilterError
from pipeline.events.event_types import EventTypes
from pipeline.events.mapping import MappingError
from pipeline.models.base import Model, Slug
from pipeline.models.control import Restriction, Rule, RuleEdit6
from pipeline.sinks.told import check_mapping

__all__ = ["NewRule", "check_rule", "router"]

router = tenancy.router("rules")


class NewRule(Model):
    """A rule to create: send ``event`` to ``integration``, where all restrictions hold."""

    id: Slug | None = Field(None, description="for ever; made from the event when missing")
    event: Annotated[str, Field(min_length=1, max_length=200)] = Field(examples=["Order Completed"])
    integration: Slug = Field(examples=["our-crm"])
    restrictions: list[Restriction] = Field(default_factory=list, max_length=20)
    filter: Annotated[str, Field(max_length=2000)] = Field(
        "", description="a CEL expression that must be true besides", examples=["properties.total > 100.0"]
    )
    mapping: dict[str, Any] = Field(
        default_factory=dict, description="field -> expression, in place of the integration's", max_length=50
    )
    prefix: Annotated[str, Field(max_length=100)] = Field("", description="put before the event's name")
    enabled: bool = True


class RuleView(Rule):
    """A rule. ``conflicts``: other rules that tell the same tool of the same event, too."""

    conflicts: list[str] = Field(default_factory=list)


class Rules(Model):
    """A partner's rules, in the order of their creation."""

    items: list[RuleView]


@router.get("", response_model=Rules, responses=tenancy.READ)
async def list_rules(partner: str, desk: AtDesk) -> dict[str, Any]:
    """The partner's rules, and which of them are in one another's way."""
    rules = tenancy.owned(desk.state, partner, desk.state.rules)
    found = _conflicts(rules)
    return {"items": [rule.model_dump(mode="json") | {"conflicts": found.get(rule.id, [])} for rule in rules]}


@router.post("", status_code=201, response_model=RuleView, responses=tenancy.CREATE)
async def create_rule(
    partner: str, body: NewRule, desk: AtDesk, request: Request, response: Response
) -> dict[str, Any]:
    """Create a rule. It sends only while its integration, and the partner's `sending`, are on too."""
    check_rule(types_of(request, partner), body.event, body.restrictions, body.filter, body.mapping)
    name = body.id or free_id(body.event, "rule", lambda taken: desk.state.taken("rule", partner, taken))
    made = await desk.change("rule.create", partner, body.model_dump(mode="json") | {"id": name})
    response.headers["Location"] = f"/v1/partners/{partner}/rules/{made['id']}"
    return _told(desk, partner, response, made)


@router.get("/{rule}", response_model=RuleView, responses=tenancy.READ)
async def show_rule(partner: str, rule: str, desk: AtDesk, response: Response) -> dict[str, Any]:
    """One rule."""
    return _told(desk, partner, response, tenancy.found(desk.state, "rule", desk.state.rules, partner, rule))


@router.patch("/{rule}", response_model=RuleView, responses=tenancy.CHANGE)
async def edit_rule(
    partner: str,
    rule: str,
    body: RuleEdit6,
    desk: AtDesk,
    expect: Expected,
    request: Request,
    response: Response,
) -> dict[str, Any]:
    """Edit or switch it. Its event is fixed. Fields left out stay; an empty `filter` or `mapping` takes it away."""
    there = tenancy.found(desk.state, "rule", desk.state.rules, partner, rule)
    check_rule(types_of(request, partner), there["event"], body.restrictions or [], body.filter, body.mapping or {})
    data = body.model_dump(mode="json", exclude_none=True)
    if body.mapping is not None:
        data["mapping"] = body.mapping
    return _told(desk, partner, response, await desk.change("rule.edit", partner, data, entity=rule, expect=expect))


@router.delete("/{rule}", response_model=Rule, responses=tenancy.CHANGE)
async def remove_rule(partner: str, rule: str, desk: AtDesk, expect: Expected) -> dict[str, Any]:
    """Remove it. Its id is never used again."""
    return await desk.change("rule.remove", partner, {}, entity=rule, expect=expect)


def check_rule(
    types: EventTypes, event: str, restrictions: list[Restriction], filter: str | None, mapping: dict[str, Any]
) -> None:
    """What no rule on this event may say is refused with 400, and where.

    Here and not in the reducer: catalogue and languages grow, and the verdict on a stored command must not change.
    """
    for fault in check_restrictions(restrictions, event, types.find(event)):
        raise ApiError(400, "invalid", fault.message, fault.path)
    if filter:
        try:
            Filter(filter)
        except FilterError as error:
            raise ApiError(400, "invalid", str(error), "$.filter") from None
    try:
        check_mapping(mapping)
    except MappingError as error:
        raise ApiError(400, "invalid", str(error), error.path) from None


def _conflicts(rules: list[Rule]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one, other in conflicts(rules):
        found.setdefault(one.id, []).append(other.id)
        found.setdefault(other.id, []).append(one.id)
    return found


def _told(desk: Desk, partner: str, response: Response, entity: dict[str, Any]) -> dict[str, Any]:
    tenancy.tagged(response, entity)
    rules = tenancy.owned(desk.state, partner, desk.state.rules)
    return entity | {"conflicts": _conflicts(rules).get(entity["id"], [])}
