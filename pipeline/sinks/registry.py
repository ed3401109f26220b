"""Tools by the kind that an integration names. A new tool is a file and a line here (docs/sinks/how-to-add.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.sinks.base import SetupError, Sink, SinkConfig
from pipeline.sinks.webhook import WebhookSink

__all__ = ["SINKS", "configure", "sink"]

SINKS: dict[str, Sink[Any]] = {tool.kind: tool for tool in (WebhookSink(),)}


def sink(kind: str) -> Sink[Any]:
    """The tool of this kind. Raises SetupError, naming those there are."""
    found = SINKS.get(kind)
    if found is None:
        raise SetupError(f"no integration of kind {kind!r}; one of {', '.join(SINKS)}")
    return found


def configure(kind: str, settings: Mapping[str, Any]) -> SinkConfig:
    """An integration's settings, checked by its tool's model. Raises SetupError."""
    config: SinkConfig = sink(kind).config(settings)
    return config
