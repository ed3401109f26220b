"""What a source takes and keeps: how it is keyed, what its events must be, consent, limits (issue: event sources)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.models.base import Model
from pipeline.models.mapping import Mapping
from pipeline.models.phone import is_region

__all__ = ["Policy"]


def _region(text: str) -> str:
    if not is_region(text):
        raise ValueError(f"{text!r} is no country: two capital letters such as SE")
    return text


class Policy(Model):
    """A source's rules. The defaults take any event in the shape of the raw contract, by the public key."""

    key: Literal["public", "secret"] = Field(
        "public", description="secret: clients need one of the source's secret keys, `<partner>.<code>.<secret>`"
    )
    accepts: Literal["any", "catalogue", "payload"] = Field(
        "any",
        description="any: the raw contract alone; catalogue: event types known to the catalogue or the partner, with "
        "their properties, types, allowed values and required ones; payload: events that `payload` validates",
    )
    events: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(
        None, min_length=1, max_length=500, description="the only event names it takes; any when left out"
    )
    payload: dict[str, Any] | None = Field(
        None, description="JSON Schema (2020-12) of the whole raw event, after the mapping"
    )
    mapping: Mapping | None = Field(None, description="what a record becomes before it is judged")
    transient: bool = Field(
        False, description="process and do not keep: counted and dispatched, but not in history or on timelines"
    )
    region: Annotated[str, AfterValidator(_region)] | None = Field(
        None, description="country (ISO 3166, e.g. SE) of phone numbers that are written without their country code"
    )
    ip: Literal["keep", "cut", "remove"] = Field("keep", description="cut: the last octet (IPv6: all but /48) is 0")
    gpc: Literal["keep", "anonymous", "drop"] = Field(
        "keep",
        description="events of clients that send Sec-GPC: 1 or refused consent: keep, keep without identifiers, drop",
    )
    rate: float | None = Field(None, gt=0, le=1_000_000, description="events a second, over all gateways; else 429")
    daily: int | None = Field(None, gt=0, description="events a day (UTC), over all gateways; else 429")

    @model_validator(mode="after")
    def _whole(self) -> Policy:
        if (self.accepts == "payload") != (self.payload is not None):
            raise ValueError("`payload` holds the JSON Schema where, and only where, `accepts` is `payload`")
        return self
