"""The topics that the control log asks for, and making them when it asks for more."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.models.control import Integration, Source
from pipeline.models.window import duration_ms
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka
from pipeline.topics.apply import apply, ensure
from pipeline.topics.plan import Plan, plan
from pipeline.topics.spec import Topic, expand, load, of_integration, of_source

__all__ = ["apply_all", "ensure_for", "for_entity", "wanted"]


def wanted(settings: Settings, sources: Iterable[Source] = (), integrations: Iterable[Integration] = ()) -> list[Topic]:
    """Every topic there should be."""
    return expand(
        load(),
        settings.lanes,
        settings.replication,
        sources=[(source.partner, source.id) for source in sources],
        integrations=[(tool.partner, tool.id) for tool in integrations],
        tiers=_tiers(settings),
    )


def for_entity(settings: Settings, entity: Source | Integration) -> list[Topic]:
    """The topics of one source or integration."""
    file = load()
    if isinstance(entity, Source):
        return of_source(file, settings.lanes, settings.replication, entity.partner, entity.id)
    return of_integration(file, settings.lanes, settings.replication, entity.partner, entity.id, _tiers(settings))


def _tiers(settings: Settings) -> list[str]:
    """The delays as the retry topics are named. Raises ValueError for one that is no duration."""
    delays = [delay.strip() for delay in settings.retry_schedule.split(",")]
    for delay in delays:
        try:
            duration_ms(delay)
        except ValueError as error:
            raise ValueError(f"HEADRACE_RETRY_SCHEDULE {settings.retry_schedule!r}: {error}") from None
    return delays


async def ensure_for(kafka: Kafka, settings: Settings, entity: Source | Integration) -> None:
    """Make the topics of one source or integration, if they are not there."""
    await ensure(kafka, for_entity(settings, entity))


async def apply_all(kafka: Kafka, settings: Settings) -> Plan:
    """Make the fixed topics and change what is safe; returns what was planned."""
    planned = await plan(kafka, wanted(settings))
    await apply(kafka, planned)
    return planned
