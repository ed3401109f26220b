"""/v1/partners/{partner}/sources/{source}/try: what a sample would become, with nothing recorded."""

from __future__ import annotations

import time
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.access import check_access
from pipeline.api.desk import AtDesk
from pipeline.api.errors import ApiError, Problem
from pipeline.bridges.base import BridgeRequest, Parsed, Refused
from pipeline.bridges.payload import PayloadBridge
from pipeline.bridges.provider import Provider
from pipeline.bridges.registry import BRIDGES
from pipeline.events.mapping import MappingError, compile_mapping
from pipeline.models.base import Model
from pipeline.models.control import Source
from pipeline.models.mapping import Mapping

__all__ = ["router"]

router = APIRouter(
    prefix="/v1/partners/{partner}/sources/{source}/try", tags=["sources"], dependencies=[Depends(check_access)]
)
_Text = Annotated[str, Field(max_length=4000)]


class Sample(Model):
    """A document as the origin sends it, and a mapping to try on it in place of the source's."""

    body: Any = Field(None, description="JSON")
    text: str | None = Field(None, description="what is no JSON, in place of `body`: a form, as it is sent")
    headers: dict[_Text, _Text] = Field(
        default_factory=dict, max_length=100, examples=[{"X-Shopify-Topic": "orders/create"}]
    )
    mapping: Mapping | None = Field(None, description="the source's, or its bridge's own, when left out")


class Trial(Model):
    """What the sample becomes: raw events (none: acknowledged and not recorded), or why it is refused."""

    events: list[dict[str, Any]] = Field(default_factory=list)
    answer: str | None = Field(None, description="what the sender hears, where it is not our own JSON")
    errors: list[Problem] = Field(default_factory=list, description="`path`: into the sample, or into the event")


@router.post("", response_model=Trial, responses=tenancy.CREATE)
async def try_sample(partner: str, source: str, body: Sample, desk: AtDesk) -> dict[str, Any]:
    """Try a sample on the source's mapping, or on one that you give. No signature is asked for, nothing is recorded."""
    tenancy.found(desk.state, "source", desk.state.sources, partner, source)
    if body.mapping is not None:
        try:
            compile_mapping(body.mapping)
        except MappingError as error:
            raise ApiError(400, "invalid", str(error), f"$.mapping{error.path[1:]}") from None
    try:
        return _shown(_parsed(desk.state.sources[partner, source], body))
    except Refused as no:
        return {"errors": [{"code": no.code, "message": no.message, "path": no.path}]}


def _parsed(source: Source, sample: Sample) -> Parsed | list[dict[str, Any]]:
    headers = {name.lower(): value for name, value in sample.headers.items()}
    content = sample.text.encode() if sample.text is not None else orjson.dumps(sample.body)
    if sample.text is not None:
        headers.setdefault("content-type", "application/x-www-form-urlencoded")
    bridge = BRIDGES.get(source.bridge)
    if isinstance(bridge, Provider):
        return bridge.sample(BridgeRequest("webhook", headers, content), source, sample.mapping)
    if isinstance(bridge, PayloadBridge):
        if sample.mapping is not None:
            mapping = sample.mapping.model_dump(mode="json", by_alias=True, exclude_unset=True)
            source = source.model_copy(update={"settings": {**source.settings, "mapping": mapping}})
        return bridge.parse(BridgeRequest("feed", headers, content, id="sample"), source, (), int(time.time() * 1000))
    declared = sample.mapping or source.policy.mapping
    if declared is None:
        message = f"source {source.id!r} has no mapping: what it takes is an event already; give a `mapping` to try"
        raise ApiError(409, "no_mapping", message)
    try:
        return compile_mapping(declared)(sample.body, headers)
    except MappingError as error:
        raise Refused(400, "mapping", str(error), error.path) from None
    except RecursionError:
        raise Refused(400, "not_json", "nested too deeply", "$") from None


def _shown(parsed: Parsed | list[dict[str, Any]]) -> dict[str, Any]:
    if isinstance(parsed, list):
        return {"events": parsed}
    answer = parsed.answer.body.decode("utf-8", "replace") if parsed.answer is not None else None
    errors = [{"code": fault.code, "message": fault.message, "path": fault.path} for fault in parsed.faults]
    return {"events": [orjson.loads(out.value) for out in parsed.events], "answer": answer, "errors": errors}
