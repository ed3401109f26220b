"""Bridges by the name that a source has for its own (`models.control.Bridge`)."""

from __future__ import annotations

from pipeline.bridges.base import Bridge, Door
from pipeline.bridges.github import GitHubBridge
from pipeline.bridges.segment import SegmentBridge

__all__ = ["BRIDGES", "TOPIC", "bridge"]

#: No code of ours: the source's producers write to its topic themselves.
TOPIC = "kafka"

_ALL: tuple[Bridge, ...] = (
    SegmentBridge("js", "pages with the tracker, by the source's public key", "Web"),
    SegmentBridge("rest", "apps and servers: Segment's HTTP API", "Mobile"),
    GitHubBridge(),
)
BRIDGES: dict[str, Bridge] = {each.name: each for each in _ALL}


def bridge(name: str, door: Door) -> Bridge | None:
    """The bridge of that name behind that door, or None."""
    found = BRIDGES.get(name)
    return found if found is not None and found.door == door else None
