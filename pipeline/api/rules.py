"""/v1/partners/{partner}/rules: which event goes to which integration."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Response
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.desk import AtDesk, Expected, free_id
from pipeline.models.base import Model, Slug
from pipeline.models.control import Restriction, Rule, RuleEdit

__all__ = ["router"]

router = tenancy.router("rules")


class NewRule(Model):
    """A rule to create: send ``event`` to ``integration``, where all restrictions hold."""

    id: Slug | None = Field(None, description="for ever; made from the event when missing")
    event: Annotated[str, Field(min_length=1, max_length=200)] = Field(examples=["Order Completed"])
    integration: Slug = Field(examples=["our-crm"])
    restrictions: list[Restriction] = Field(default_factory=list, max_length=20)
    prefix: Annotated[str, Field(max_length=100)] = Field("", description="put before the event's name")
    enabled: bool = True


class Rules(Model):
    """A partner's rules, in the order of their creation."""

    items: list[Rule]


@router.get("", response_model=Rules, responses=tenancy.READ)
async def list_rules(partner: str, desk: AtDesk) -> dict[str, Any]:
    """The partner's rules."""
    return {"items": tenancy.owned(desk.state, partner, desk.state.rules)}


@router.post("", status_code=201, response_model=Rule, responses=tenancy.CREATE)
async def create_rule(partner: str, body: NewRule, desk: AtDesk, response: Response) -> dict[str, Any]:
    """Create a rule. It sends only while its integration, and the partner's `sending`, are on too."""
    name = body.id or free_id(body.event, "rule", lambda taken: desk.state.taken("rule", partner, taken))
    made = await desk.change("rule.create", partner, body.model_dump(mode="json") | {"id": name})
    response.headers["Location"] = f"/v1/partners/{partner}/rules/{made['id']}"
    return tenancy.tagged(response, made)


@router.get("/{rule}", response_model=Rule, responses=tenancy.READ)
async def show_rule(partner: str, rule: str, desk: AtDesk, response: Response) -> dict[str, Any]:
    """One rule."""
    return tenancy.tagged(response, tenancy.found(desk.state, "rule", desk.state.rules, partner, rule))


@router.patch("/{rule}", response_model=Rule, responses=tenancy.CHANGE)
async def edit_rule(
    partner: str, rule: str, body: RuleEdit, desk: AtDesk, expect: Expected, response: Response
) -> dict[str, Any]:
    """Edit or switch it. Its event is fixed. Fields left out stay."""
    data = body.model_dump(mode="json", exclude_none=True)
    return tenancy.tagged(response, await desk.change("rule.edit", partner, data, entity=rule, expect=expect))


@router.delete("/{rule}", response_model=Rule, responses=tenancy.CHANGE)
async def remove_rule(partner: str, rule: str, desk: AtDesk, expect: Expected) -> dict[str, Any]:
    """Remove it. Its id is never used again."""
    return await desk.change("rule.remove", partner, {}, entity=rule, expect=expect)
