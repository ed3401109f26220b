"""What fan-out says of segments: counts, progress, transitions (design: segments, "Global numbers")."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.models.base import Millis, Model, Slug

__all__ = ["ANY", "LaneClock", "SegmentCount", "SegmentCountKey", "SegmentProgress", "Transition"]

#: Stands for any source or any channel.
ANY = "*"


class SegmentCountKey(Model):
    """Key of `segments.counts`, as JSON with sorted keys. A row has a source or a channel, never both.

    ``source`` and ``channel`` are ``*`` for any: (``*``, ``*``) is the segment's size; (source, ``*``) counts
    customers who satisfy the segment by that source's events alone; (``*``, channel) likewise.
    """

    partner: Slug
    segment: Slug
    source: str = ANY
    channel: str = ANY
    lane: int


class SegmentCount(Model):
    """Value of `segments.counts`: one lane's absolute part, never a delta. Global = the sum over lanes."""

    customers: int
    identified: int = Field(description="those of them with a user id, an e-mail or a phone")
    version: int = Field(description="of the segment")
    as_of: Millis


class LaneClock(Model):
    """On `segments.counts` too (key: JSON {lane}): the lane's counts before this record are right for ``as_of``.

    On the same partition as the counts, so no reader can see a moment before the numbers that belong to it.
    """

    lane: int
    as_of: Millis


class SegmentSize(Model):
    """Value of `segments.sizes` (key as of `segments.counts`): one lane's part of a minute in which a row moved.

    With the last minute of each hour every row comes, moved or not. Sizes of a moment are the sum, over lanes, of each
    one's newest by then.
    """

    partner: Slug
    segment: Slug
    version: int = Field(description="of the segment")
    scope: Literal["all", "source", "channel"]
    name: str | None = Field(None, description="of the source or channel")
    lane: int
    at: Millis = Field(description="the minute's beginning")
    customers: int = Field(description="at its end")
    identified: int = Field(description="those of them with a user id, an e-mail or a phone")
    adds: int = Field(description="how often somebody came in the minute")
    drops: int = Field(description="how often somebody went")
    identified_change: int = Field(description="of `identified` in the minute")


class SegmentProgress(Model):
    """Value of `segments.progress` (key: JSON {partner, segment, lane})."""

    partner: Slug
    segment: str = Field(description="of a computed trait: `trait:` and its id")
    lane: int
    version: int
    as_of: Millis = Field(description="the lane's clock: counts are right for this moment")
    coverage_from: Millis = Field(description="events since this moment are in the counts")
    complete: bool = Field(description="coverage spans every window, and all customers have been evaluated")
    back_fill: float = Field(1.0, ge=0, le=1, description="how much of the past has been read, where it is to be")


class Transition(Model):
    """Value of `segments.transitions` (key: canonical customer id). ``id`` is deterministic."""

    id: str
    kind: Literal["entered", "left"]
    partner: Slug
    segment: Slug
    version: int
    customer: str
    cause: Literal["event", "time", "merge", "definition", "back-fill", "erasure"]
    event: str | None = Field(None, description="message id of the event that caused it")
    at: Millis
    identifiers: list[str] = Field(default_factory=list)
    traits: dict[str, Any] = Field(default_factory=dict)
