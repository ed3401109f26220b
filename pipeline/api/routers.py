"""The routers that read: what the API has beside the admin's, each over `app.state.query`."""

from __future__ import annotations

from fastapi import APIRouter

from pipeline.api import (
    activity,
    counts,
    customers,
    deliveries,
    erasures,
    exports,
    feeds,
    live,
    mailings,
    preview,
    rejected,
    rule_trials,
    sql,
    traits,
)

__all__ = ["ROUTERS"]

ROUTERS: tuple[APIRouter, ...] = (
    preview.router,
    counts.router,
    exports.router,
    customers.router,
    erasures.router,
    feeds.router,
    mailings.router,
    traits.router,
    deliveries.router,
    deliveries.integrations,
    rule_trials.router,
    rule_trials.events,
    activity.router,
    activity.all_sources,
    live.router,
    rejected.router,
    sql.router,
)
