"""/v1/partners/{partner}/sources: the event sources."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Response
from pydantic import Field, computed_field

from pipeline.api import tenancy
from pipeline.api.desk import AtDesk, Expected, free_id
from pipeline.models.base import Code, Label, Model, Slug
from pipeline.models.control import Bridge, Channel, Domain, Source, SourceEdit

__all__ = ["router"]

router = tenancy.router("sources")
_SECRET = "the secret itself; it is kept encrypted and never shown again, answers carry only its id"


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
    bridge: Bridge = "js"
    secret: str | None = Field(None, description=_SECRET, json_schema_extra={"writeOnly": True})


class SourceChange(SourceEdit):
    """What to change; fields left out stay. `domain: ""` removes the domain."""

    secret: str | None = Field(None, description=_SECRET, json_schema_extra={"writeOnly": True})


class SourceView(Source):
    """An event source. `secret` is the id of its secret."""

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
    name = body.id or free_id(body.name, "source", lambda taken: desk.state.taken("source", partner, taken))
    data = body.model_dump(mode="json", exclude_none=True) | {"id": name, "code": body.code or name}
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
    data = body.model_dump(mode="json", exclude_none=True)
    return tenancy.tagged(response, await desk.change("source.edit", partner, data, entity=source, expect=expect))


@router.delete("/{source}", response_model=SourceView, responses=tenancy.CHANGE)
async def remove_source(partner: str, source: str, desk: AtDesk, expect: Expected) -> dict[str, Any]:
    """Remove a user-defined source: its events are refused from now on, its id is never used again."""
    return await desk.change("source.remove", partner, {}, entity=source, expect=expect)
