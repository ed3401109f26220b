"""From fan-out to a tool: the dispatch record, the delivery log, the undeliverable (design: delivery)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.models.base import Millis, Model, Slug

__all__ = ["Closed", "Delivery", "Dispatch", "Outcome", "RedrivenDispatch", "SinkState", "Undeliverable"]

#: ok; transient (timeout, 5xx, connection); throttle (429); setup (401/403/404/410); invalid (never).
Outcome = Literal["ok", "transient", "throttle", "setup", "invalid"]


class Dispatch(Model):
    """A record of ``dispatch.<partner>.<integration>`` (key: customer id). ``id`` is the dedup key."""

    id: str = Field(description="deterministic in (rule, event): the same on every attempt and replay")
    partner: Slug
    integration: Slug
    rule: Slug
    name: str = Field(description="the event's name, the rule's prefix before it")
    event: dict[str, Any] = Field(description="the event as on `history`")
    customer: dict[str, Any] = Field(description="{id, user_id, anonymous_id, email, phone, traits}")
    created: Millis
    test: bool = False
    replayed: bool = Field(False, description="told again at somebody's wish: no tool may act on it as news")
    mapping: dict[str, Any] = Field(default_factory=dict, description="the rule's own, field -> expression")
    attempt: int = Field(0, description="attempts made so far")
    due: Millis = Field(0, description="not before this moment (retry topics)")
    first_failed: Millis | None = None


class Delivery(Model):
    """One attempt, on `deliveries`; secrets are masked, the answer cut at 2,000 characters."""

    id: str
    partner: Slug
    integration: Slug
    rule: Slug
    customer: str
    name: str
    attempt: int
    outcome: Outcome
    status: int | None = None
    detail: str = ""
    request: dict[str, Any] = Field(default_factory=dict)
    answer: str = ""
    started: Millis
    duration_ms: int
    test: bool = False


class Undeliverable(Model):
    """On ``dispatch.<partner>.<integration>.undeliverable``: what a tool never took."""

    dispatch: Dispatch | None = Field(description="null when unreadable")
    reason: Literal["invalid", "exhausted", "unreadable"]
    detail: str
    at: Millis
    place: str = Field("", description="`topic/partition/offset` of the record that was given up")
    value: str | None = Field(None, description="first 1,000,000 bytes of an unreadable record, base64")


class Closed(Model):
    """Why a tool is not called. ``alert``: somebody must mend something."""

    reason: str
    since: Millis
    until: Millis = Field(description="then one request tries again")
    alert: bool


class SinkState(Model):
    """Value of `sinks.state` (key: JSON {partner, integration, lane}): how a tool is doing, as one lane has it."""

    partner: Slug
    integration: Slug
    lane: int
    failing_since: Millis | None = Field(
        None, description="nothing but failures since then; null: the last got through"
    )
    ok_at: Millis | None = Field(None, description="when it last took something, to the minute while it does")
    closed: Closed | None = Field(None, description="why the lane's process does not call it; null: it does")
    at: Millis


class RedrivenDispatch(Model):
    """On `undeliverable.redriven` (key: ``<partner>.<integration>``, in the same partition): told again, once."""

    redriven: int = Field(description="offset of the undeliverable")
    at: Millis
    offset: int = Field(description="of its record in the dispatch topic now, in the same partition")
