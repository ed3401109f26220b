"""Bridges by the name that a source has for its own (`models.control.Bridge`)."""

from __future__ import annotations

from pipeline.bridges.base import Bridge
from pipeline.bridges.github import GitHubBridge
from pipeline.bridges.segment import SegmentBridge

__all__ = ["TRACKING", "WEBHOOKS", "bridge"]

_SEGMENT = SegmentBridge()
#: Sources that the tracking routes (``/v1/track`` and so on) feed.
TRACKING: dict[str, Bridge] = {"js": _SEGMENT, "rest": _SEGMENT}
#: Sources that ``/v1/webhooks/<partner>/<code>`` feeds.
WEBHOOKS: dict[str, Bridge] = {"webhook-github": GitHubBridge()}


def bridge(name: str) -> Bridge | None:
    """The bridge of that name, or None: ``kafka`` has none, its producers write to the topic themselves."""
    return TRACKING.get(name) or WEBHOOKS.get(name)
