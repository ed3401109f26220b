"""/v1/partners/{partner}/integrations: the external tools."""

from __future__ import annotations

import contextlib
import time
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from pydantic import AfterValidator, BaseModel, Field, StringConstraints, ValidationError

from pipeline.api import tenancy
from pipeline.api.desk import AtDesk, Desk, Expected, free_id
from pipeline.api.errors import ApiError
from pipeline.control.faults import fault, shallow
from pipeline.control.secrets import SecretError
from pipeline.models.base import Label, Millis, Model, Slug
from pipeline.models.control import Integration, IntegrationEdit
from pipeline.models.delivery import Closed
from pipeline.sinks.state import SinkBoard, failing_since
from pipeline.sinks.transports import Transports
from pipeline.sinks.trial import Checked, check

__all__ = ["router"]

router = tenancy.router("integrations")
_SECRET = "the secret itself; it is kept encrypted and never shown again, answers carry only its id"

Require = Annotated[
    bool, Query(alias="require_check", description="save nothing where the tool says that the set-up is wrong")
]

ToolSettings = Annotated[
    dict[str, Any],
    AfterValidator(shallow),
    Field(description="the tool's own settings; keep secrets out of them, they are shown"),
]


class NewIntegration(Model):
    """An external tool to connect."""

    id: Slug | None = Field(None, description="for ever, it names topics; made from the name when missing")
    name: Label = Field(examples=["Our CRM"])
    kind: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,40}$")] = Field(examples=["webhook"])
    settings: ToolSettings = Field(default_factory=dict, examples=[{"url": "https://crm.example/hook"}])
    secret: str | None = Field(None, description=_SECRET, json_schema_extra={"writeOnly": True})


class IntegrationChange(IntegrationEdit):
    """What to change; fields left out stay, `settings` are replaced whole."""

    settings: ToolSettings | None = None
    secret: str | None = Field(None, description=_SECRET, json_schema_extra={"writeOnly": True})


class IntegrationView(Integration):
    """An integration; after a change with what the tool said of the set-up, where it was asked."""

    check: Checked | None = None


class IntegrationState(Model):
    """How an integration is doing, as the sink processes have it. ``state``: ``off`` by a switch, its own or the
    partner's; ``paused`` where some process does not call the tool now, ``closed`` says why."""

    state: Literal["off", "paused", "on"]
    closed: Closed | None
    failing_since: Millis | None = Field(description="nothing but failures since then")
    ok_at: Millis | None = Field(description="when it last took something, to the minute")
    as_of: Millis | None


class Integrations(Model):
    """A partner's integrations, in the order of their creation."""

    items: list[Integration]


@router.get("", response_model=Integrations, responses=tenancy.READ)
async def list_integrations(partner: str, desk: AtDesk) -> dict[str, Any]:
    """The partner's integrations."""
    return {"items": tenancy.owned(desk.state, partner, desk.state.integrations)}


@router.post("", status_code=201, response_model=IntegrationView, responses=tenancy.CREATE)
async def create_integration(
    partner: str, body: NewIntegration, desk: AtDesk, request: Request, response: Response, require: Require = False
) -> dict[str, Any]:
    """Connect a tool. Its topics are there when this answers 201; rules say what it is sent.

    The tool is asked whether the set-up is right: `check` has what it said.
    """
    _check(request, body.kind, body.settings)
    checked = await _ask(request, body.kind, body.settings, body.secret, require)
    name = body.id or free_id(body.name, "integration", lambda taken: desk.state.taken("integration", partner, taken))
    data = body.model_dump(mode="json", exclude_none=True) | {"id": name, "settings": body.settings}
    made = await desk.change("integration.create", partner, data)
    response.headers["Location"] = f"/v1/partners/{partner}/integrations/{made['id']}"
    return tenancy.tagged(response, made) | {"check": checked}


@router.get("/{integration}", response_model=Integration, responses=tenancy.READ)
async def show_integration(partner: str, integration: str, desk: AtDesk, response: Response) -> dict[str, Any]:
    """One integration."""
    table = desk.state.integrations
    return tenancy.tagged(response, tenancy.found(desk.state, "integration", table, partner, integration))


@router.get("/{integration}/state", response_model=IntegrationState, responses=tenancy.READ)
async def show_state(partner: str, integration: str, desk: AtDesk, request: Request) -> IntegrationState:
    """Whether the tool is called, and if not, why; since when it does nothing but fail."""
    there = tenancy.found(desk.state, "integration", desk.state.integrations, partner, integration)
    board: SinkBoard = request.app.state.sinks
    rows = board.of(partner, integration)
    closed = sorted((row.closed for row in rows.values() if row.closed is not None), key=lambda each: each.until)
    partner_on = desk.state.partners[partner].sending
    state: Literal["off", "paused", "on"] = "on"
    if not there["enabled"] or not partner_on:
        state = "off"
    elif closed:
        state = "paused"
    return IntegrationState(
        state=state,
        closed=closed[-1] if closed else None,
        failing_since=failing_since(rows.values()),
        ok_at=max((row.ok_at for row in rows.values() if row.ok_at is not None), default=None),
        as_of=max((row.at for row in rows.values()), default=None),
    )


@router.post("/{integration}/check", response_model=Checked, responses=tenancy.READ)
async def check_integration(partner: str, integration: str, desk: AtDesk, request: Request) -> Checked:
    """Ask the tool whether the set-up is right, with a request that tells it of nobody ("Test connection")."""
    there = tenancy.found(desk.state, "integration", desk.state.integrations, partner, integration)
    found = await _ask(request, there["kind"], there["settings"], _secret(desk, there["secret"]), False)
    return found or Checked(ok=None, detail="this process connects to no tools")


@router.patch("/{integration}", response_model=IntegrationView, responses=tenancy.CHANGE)
async def edit_integration(
    partner: str,
    integration: str,
    body: IntegrationChange,
    desk: AtDesk,
    expect: Expected,
    request: Request,
    response: Response,
    require: Require = False,
) -> dict[str, Any]:
    """Edit or switch it. What was retried goes on with it as it is now; a new secret takes the place of the old one."""
    data = body.model_dump(mode="json", exclude_none=True)
    checked = None
    if body.settings is not None or body.secret is not None:
        there = tenancy.found(desk.state, "integration", desk.state.integrations, partner, integration)
        settings = there["settings"] if body.settings is None else body.settings
        _check(request, there["kind"], settings)
        data |= {} if body.settings is None else {"settings": body.settings}
        secret = _secret(desk, there["secret"]) if body.secret is None else body.secret
        checked = await _ask(request, there["kind"], settings, secret, require)
    after = await desk.change("integration.edit", partner, data, entity=integration, expect=expect)
    return tenancy.tagged(response, after) | {"check": checked}


@router.delete("/{integration}", response_model=Integration, responses=tenancy.CHANGE)
async def remove_integration(partner: str, integration: str, desk: AtDesk, expect: Expected) -> dict[str, Any]:
    """Remove it, once no rule uses it (409 names those that do). Its id is never used again."""
    return await desk.change("integration.remove", partner, {}, entity=integration, expect=expect)


def _check(request: Request, kind: str, settings: dict[str, Any]) -> None:
    """Against the tool's own model. Here and not in the reducer: tools grow, and stored verdicts must not change."""
    tools: dict[str, type[BaseModel]] | None = request.app.state.tools
    if tools is None:
        return
    if kind not in tools:
        raise ApiError(400, "invalid", f"no tool {kind!r}; one of {', '.join(sorted(tools))}", "$.kind")
    try:
        tools[kind].model_validate(settings)
    except ValidationError as error:
        path, message = fault(error, settings, "$.settings")
        raise ApiError(400, "invalid", message, path) from None


async def _ask(
    request: Request, kind: str, settings: dict[str, Any], secret: str | None, require: bool
) -> Checked | None:
    """What the tool says of the set-up; None where this process asks none."""
    transports: Transports | None = getattr(request.app.state, "transports", None)
    if transports is None:
        return None
    found = await check(transports, kind, settings, secret, int(time.time() * 1000))
    if require and found.ok is False:
        raise ApiError(409, "check_failed", f"nothing was saved: {found.detail}")
    return found


def _secret(desk: Desk, name: str | None) -> str | None:
    with contextlib.suppress(SecretError):
        return desk.secrets.get(name) if name is not None else None
    return None
