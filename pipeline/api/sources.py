"""/v1/partners/{partner}/sources: the event sources."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AfterValidator, Field, ValidationError, computed_field

from pipeline.api import tenancy
from pipeline.api.access import check_access
from pipeline.api.desk import AtDesk, Expected, free_id
from pipeline.api.errors import ApiError
from pipeline.bridges.provider import Provider
from pipeline.bridges.registry import BRIDGES, TOPIC
from pipeline.control.faults import fault, shallow
from pipeline.events.rules import PolicyError, check_policy
from pipeline.models.base import Code, Label, Model, Slug
from pipeline.models.control import Bridge, Channel, Domain, Source, SourceEdit3, SourceKey
from pipeline.models.mapping import Mapping
from pipeline.models.policy import Policy

__all__ = ["bridges", "router"]

router = tenancy.router("sources")
bridges = APIRouter(prefix="/v1/bridges", tags=["sources"], dependencies=[Depends(check_access)])
_SECRET = "the secret itself; it is kept encrypted and never shown again, answers carry only its id"


BridgeSettings = Annotated[
    dict[str, Any],
    AfterValidator(shallow),
    Field(description="the bridge's own settings; keep secrets out of them, they are shown"),
]


class NewSource(Model):
    """A user-defined event source to create."""

    id: Slug | None = Field(None, description="for ever, it names the topic; made from the name when missing")
    name: Label = Field(examples=["Mobile application"])
    code: Code | None = Field(
        None, description="what clients pass after `<partner>.`; the id when missing", examples=["mobile"]
    )
    domain: Domain | None = Field(
        None, description="the only domain that pages may send from", examples=["shop.example"]
    )
    description: Annotated[str, Field(max_length=2000)] = ""
    channel: Channel = Field("Web", examples=["Mobile"])
    bridge: Bridge = Field("js", description="one of `GET /v1/bridges`")
    settings: BridgeSettings = Field(default_factory=dict)
    policy: Policy = Field(default_factory=Policy)
    secret: str | None = Field(None, description=_SECRET, json_schema_extra={"writeOnly": True})


class SourceChange(SourceEdit3):
    """What to change; fields left out stay, `settings` and `policy` are replaced whole. `domain: ""` removes it."""

    settings: BridgeSettings | None = None
    secret: str | None = Field(None, description=_SECRET, json_schema_extra={"writeOnly": True})


class SourceKeyView(SourceKey):
    """A secret write key, by its name; not even its hash is shown."""

    hash: str = Field(exclude=True)


class SourceView(Source):
    """An event source. `secret` is the id of its secret."""

    keys: list[SourceKeyView] = Field(default_factory=list)  # type: ignore[assignment]

    @computed_field(description="what a client passes: `<partner>.<code>`")  # type: ignore[prop-decorator]
    @property
    def key(self) -> str:
        """Shown, other than in the log."""
        return super().key

    @computed_field(description="for producers straight to Kafka")  # type: ignore[prop-decorator]
    @property
    def topic(self) -> str:
        """Shown, other than in the log."""
        return super().topic


class Sources(Model):
    """A partner's sources, in the order of their creation; the system source comes first."""

    items: list[SourceView]


@router.get("", response_model=Sources, responses=tenancy.READ)
async def list_sources(
    partner: str, desk: AtDesk, removed: Annotated[bool, Query(description="removed ones too")] = False
) -> dict[str, Any]:
    """The partner's sources."""
    sources = tenancy.owned(desk.state, partner, desk.state.sources, removed=removed)
    return {"items": [source.model_dump() for source in sources]}


@router.post("", status_code=201, response_model=SourceView, responses=tenancy.CREATE)
async def create_source(partner: str, body: NewSource, desk: AtDesk, response: Response) -> dict[str, Any]:
    """Create a source. Its topic is there when this answers 201."""
    _check(body.bridge, body.settings)
    _check_policy(body.policy)
    name = body.id or free_id(body.name, "source", lambda taken: desk.state.taken("source", partner, taken))
    data = body.model_dump(mode="json", exclude_none=True, by_alias=True)
    data |= {"id": name, "code": body.code or name, "settings": body.settings}
    if "channel" not in body.model_fields_set and body.bridge in BRIDGES:
        data["channel"] = BRIDGES[body.bridge].channel
    made = await desk.change("source.create", partner, data)
    response.headers["Location"] = f"/v1/partners/{partner}/sources/{made['id']}"
    return tenancy.tagged(response, made)


@router.get("/{source}", response_model=SourceView, responses=tenancy.READ)
async def show_source(partner: str, source: str, desk: AtDesk, response: Response) -> dict[str, Any]:
    """One source."""
    return tenancy.tagged(response, tenancy.found(desk.state, "source", desk.state.sources, partner, source))


@router.patch("/{source}", response_model=SourceView, responses=tenancy.CHANGE)
async def edit_source(
    partner: str, source: str, body: SourceChange, desk: AtDesk, expect: Expected, response: Response
) -> dict[str, Any]:
    """Edit or switch it. The name of the system source `Online Store` is fixed. It acts within 2 s everywhere."""
    data = body.model_dump(mode="json", exclude_none=True, by_alias=True)
    if body.policy is not None:
        _check_policy(body.policy)
    if body.settings is not None:
        there = tenancy.found(desk.state, "source", desk.state.sources, partner, source)
        _check(there["bridge"], body.settings)
        data["settings"] = body.settings
    return tenancy.tagged(response, await desk.change("source.edit", partner, data, entity=source, expect=expect))


@router.delete("/{source}", response_model=SourceView, responses=tenancy.CHANGE)
async def remove_source(partner: str, source: str, desk: AtDesk, expect: Expected) -> dict[str, Any]:
    """Remove a user-defined source: its events are refused from now on, its id is never used again."""
    return await desk.change("source.remove", partner, {}, entity=source, expect=expect)


class BridgeView(Model):
    """A way in. `settings`: JSON Schema of what a source of it may set; `mapping`: a webhook's own, to begin from."""

    name: str
    title: str
    door: str
    channel: str
    settings: dict[str, Any]
    mapping: Mapping | None


class BridgeList(Model):
    """All there are; `kafka`, producers straight to the topic, has none of its own."""

    items: list[BridgeView]


@bridges.get("", response_model=BridgeList)
async def list_bridges() -> dict[str, Any]:
    """The bridges that a source may have."""
    return {
        "items": [
            {
                "name": each.name,
                "title": each.title,
                "door": each.door,
                "channel": each.channel,
                "settings": each.Settings.model_json_schema(),
                "mapping": each.mapping if isinstance(each, Provider) else None,
            }
            for each in BRIDGES.values()
        ]
    }


def _check(bridge: str, settings: dict[str, Any]) -> None:
    """Against the bridge's own model. Here and not in the reducer: bridges grow, and verdicts must not change."""
    if bridge == TOPIC and not settings:
        return
    if bridge not in BRIDGES:
        names = ", ".join(sorted([*BRIDGES, TOPIC]))
        raise ApiError(400, "invalid", f"no bridge {bridge!r} with settings; one of {names}", "$.bridge")
    try:
        BRIDGES[bridge].Settings.model_validate(settings)
    except ValidationError as error:
        path, message = fault(error, settings, "$.settings")
        raise ApiError(400, "invalid", message, path) from None


def _check_policy(policy: Policy) -> None:
    """What intake could not read is refused. Not in the reducer: what can be read may grow, and verdicts must not."""
    try:
        check_policy(policy)
    except PolicyError as error:
        raise ApiError(400, "invalid", str(error), f"$.policy{error.path[1:]}") from None
