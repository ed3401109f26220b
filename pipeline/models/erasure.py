"""That a customer was erased: what `erasures` says of it."""

from __future__ import annotations

from pydantic import Field

from pipeline.models.base import Millis, Model, Slug

__all__ = ["LOGS_DAYS", "Erasure", "gone_by"]

#: The longest that a topic keeps a record: 31 days of retention, and the 7 that Kafka may still write to its segment.
LOGS_DAYS = 38


def gone_by(requested: Millis) -> Millis:
    """When Kafka has dropped the last record that says anything of somebody whose erasure was asked for then."""
    return requested + LOGS_DAYS * 86_400_000


class Erasure(Model):
    """Value of `erasures` (key: ``<partner>|<id>``), written in the transaction that erases.

    It names whom the lake and all indexes are to forget, and goes itself as all logs do.
    """

    id: str
    partner: Slug
    customer: str = Field(description="canonical id that it was under")
    identifiers: list[str] = Field(description="all that it was known by")
    requested: Millis
    at: Millis = Field(description="nothing of it that happened until this moment comes back")
