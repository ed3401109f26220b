"""What the gateway's routes are made of: started parts, which they use and neither start nor stop."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets
from pipeline.gateway.limits import Limits
from pipeline.gateway.publish import Producing
from pipeline.gateway.upload_log import UploadLog
from pipeline.settings import Settings

__all__ = ["Parts"]


@dataclass(frozen=True, slots=True)
class Parts:
    """One of each a process. A module of routes takes them in its ``routes(parts)``."""

    control: ControlLog
    secrets: Secrets
    producer: Producing
    settings: Settings = field(default_factory=Settings)
    limits: Limits = field(default_factory=lambda: Limits("alone"))
    uploads: UploadLog | None = None
