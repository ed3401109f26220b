"""The api role: the admin API over HTTP, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from pipeline.api.app import create_app
from pipeline.api.routers import ROUTERS
from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets
from pipeline.feeds.status import StatusBoard
from pipeline.lake.store import open_store
from pipeline.models.catalogue import catalogue
from pipeline.query.dead import DeadTable
from pipeline.query.kept import Kept
from pipeline.query.live import Live
from pipeline.query.reader import Reader
from pipeline.settings import Settings
from pipeline.sinks.registry import SINKS
from pipeline.sinks.state import SinkBoard
from pipeline.sinks.transports import Transports
from pipeline.stream.kafka import Kafka
from pipeline.topics.apply import ensure
from pipeline.topics.wanted import ensure_for, wanted

__all__ = ["run_api", "serve"]

_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the role's business."""
        yield


async def run_api(kafka: Kafka, control: ControlLog, secrets: Secrets, settings: Settings, stop: asyncio.Event) -> None:
    """Run the role over a started control log and secrets until ``stop`` is set.

    Raises ValueError off loopback without a token, OSError when the address can't be taken, and what following
    Kafka died of: the process should end with a non-zero code then, and be started again.
    """
    ensure_topics = partial(ensure_for, kafka, settings)
    # A process may have died between a creation and its topics.
    state = control.state
    sources = [source for source in state.sources.values() if not source.removed]
    integrations = [tool for tool in state.integrations.values() if not tool.removed]
    await ensure(kafka, wanted(settings, sources, integrations))
    reader = Reader(kafka, settings.lanes, settings.data_dir / "stores" / "query")
    board = StatusBoard(kafka)
    live = Live(kafka)
    kept = Kept(kafka, open_store(settings))
    dead = DeadTable(kafka)
    sinks = SinkBoard(kafka)
    transports = Transports(settings)
    try:
        await transports.start()
        await reader.start()
        await kept.start()
        await dead.start()
        await board.start()
        await sinks.start()
        app = create_app(
            control,
            secrets,
            settings,
            ensure_topics=ensure_topics,
            query=reader,
            live=live,
            catalogue=catalogue(),
            tools={kind: tool.Config for kind, tool in SINKS.items()},
            routers=ROUTERS,
        )
        app.state.feeds = board
        app.state.sinks = sinks
        app.state.kafka = kafka
        app.state.transports = transports
        app.state.kept = kept
        app.state.dead = dead
        followers = (control, secrets, board, kept, dead, sinks)
        failures = (*(each.failure for each in followers), *reader.failures)
        await serve(app, settings, stop, failures=failures, ending=live.stop)
    finally:
        await live.stop()
        await transports.stop()
        await sinks.stop()
        await board.stop()
        await dead.stop()
        await kept.stop()
        await reader.stop()


async def serve(
    app: FastAPI,
    settings: Settings,
    stop: asyncio.Event,
    *,
    failures: Sequence[asyncio.Future[None]] = (),
    ending: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve ``app`` on ``settings.host`` and ``api_port`` until ``stop``; requests under way are finished.

    ``ending`` is awaited before that: it ends the answers that would never end by themselves.
    Raises OSError when the address can't be taken, and the first of ``failures`` that is set.
    """
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listening = socket.create_server((settings.host, settings.api_port), family=family)
    except OSError as error:
        raise OSError(
            f"{settings.host}:{settings.api_port} for the API can't be taken ({error.strerror}); "
            "stop what uses it, or set HEADRACE_API_PORT to another port (0: a free one)"
        ) from None
    server = _Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=10))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    stopped = asyncio.create_task(stop.wait())
    _log.info("API on http://%s:%d, its documentation under /docs", *listening.getsockname()[:2])
    try:
        first: list[asyncio.Future[Any]] = [serving, stopped, *failures]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if ending is not None:
            await ending()
        server.should_exit = True
        await serving
    for failure in failures:
        if failure.done():
            failure.result()
