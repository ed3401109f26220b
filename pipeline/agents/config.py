"""A role's lanes as the settings have them."""

from __future__ import annotations

from typing import Any

from pipeline.settings import Settings
from pipeline.stream.config import LaneConfig
from pipeline.stream.kafka import Kafka

__all__ = ["lane_config"]


def lane_config(kafka: Kafka, settings: Settings, role: str, **more: Any) -> LaneConfig:
    """The configuration of ``role``'s lanes; ``more``: what is this role's own. Raises ValueError as LaneConfig."""
    return LaneConfig(
        kafka,
        f"headrace-{role}",
        role,
        settings.lanes,
        standbys=settings.standbys,
        instance=settings.instance,
        session=settings.session_seconds,
        stall=settings.stall_seconds,
        budget=settings.drain_seconds,
        **more,
    )
