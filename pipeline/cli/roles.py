"""The roles, one process each. They share their start: Kafka, control log, secrets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import typer
from aiokafka.errors import KafkaConnectionError

from pipeline.agents import ROLES
from pipeline.settings import KafkaSettings, Settings
from pipeline.stream.kafka import Kafka

__all__ = ["Context", "api", "bridge", "gateway", "lake", "postgres", "run", "sink", "worker"]

log = logging.getLogger(__name__)
#: Longer than what a supervisor forgives in quick ends.
_REACH_SECONDS = 60.0
_REACH_RETRY_SECONDS = 2.0


@dataclass
class Context:
    """What every role starts from."""

    kafka: Kafka
    settings: Settings
    stop: asyncio.Event


def configure_logging(settings: Settings) -> None:
    """Plain lines on standard error; libraries speak from WARNING on."""
    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    logging.getLogger("pipeline").setLevel(settings.log_level)
    # A topic that is not there yet is looked for twice a second; the client calls that an error each time.
    logging.getLogger("aiokafka.cluster").setLevel(logging.CRITICAL)


def run(main: Callable[[Context], Awaitable[None]]) -> None:
    """Run a role until SIGINT or SIGTERM; a failure is told in a line and ends the process with code 1."""
    import uvloop

    settings = Settings()
    configure_logging(settings)
    try:
        kafka = KafkaSettings().kafka()
    except ValueError as error:
        typer.echo(f"headrace: {error}", err=True)
        raise typer.Exit(2) from None

    async def start() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if await _reached(kafka, stop):
            await main(Context(kafka, settings, stop))

    try:
        uvloop.run(start())
    except Exception as error:
        log.debug("failed", exc_info=True)
        typer.echo(f"headrace: {type(error).__name__}: {error}", err=True)
        raise typer.Exit(1) from None


async def _reached(kafka: Kafka, stop: asyncio.Event) -> bool:
    """True when a broker answers: what is started beside a cluster, or restarted while it is away, waits for it. False
    when it is to stop before that.

    Raises KafkaConnectionError when none has after `_REACH_SECONDS`.
    """
    deadline = time.monotonic() + _REACH_SECONDS
    while not stop.is_set():
        admin = kafka.admin()
        try:
            await admin.start()
            return True
        except KafkaConnectionError:
            if time.monotonic() > deadline:
                raise
            log.warning("no broker answers at %s yet", kafka.bootstrap_servers)
        finally:
            with contextlib.suppress(Exception):
                await admin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _REACH_RETRY_SECONDS)
    return False


def worker(
    roles: Annotated[str, typer.Option(help="intake, fanout, or both with a comma between")] = ",".join(ROLES),
) -> None:
    """Run the Faust lanes: intake validates and enriches, fan-out counts and dispatches."""
    wanted = [role.strip() for role in roles.split(",")]
    unknown = [role for role in wanted if role not in ROLES]
    if unknown:
        raise typer.BadParameter(f"no role {unknown[0]!r}; one of {', '.join(ROLES)}", param_hint="--roles")

    async def main(context: Context) -> None:
        from pipeline.agents.role import run_worker
        from pipeline.control.log import ControlLog

        control = ControlLog(context.kafka)
        await control.start()
        try:
            await run_worker(context.kafka, control, context.settings, context.stop, wanted)
        finally:
            await control.stop()

    run(main)


def gateway() -> None:
    """Run the HTTP edge: tracker, Segment-compatible API, webhooks; 200 once Kafka has the event."""
    from pipeline.gateway.role import run_gateway

    run(_with_secrets(run_gateway))


def api() -> None:
    """Run the admin and query API over HTTP; its documentation is under /docs."""
    from pipeline.api.role import run_api

    run(_with_secrets(run_api))


def sink() -> None:
    """Run delivery: dispatch topics in, external tools out."""
    from pipeline.sinks.role import run_sink

    run(_with_secrets(run_sink))


def bridge() -> None:
    """Run feeds: fetch from the queues, mailboxes and folders of sources whose bridge does so."""
    from pipeline.feeds.role import run_bridge

    run(_with_secrets(run_bridge))


def lake() -> None:
    """Run the lake: events into Parquet files, each once, in a folder or an S3-compatible store."""
    from pipeline.lake.role import run_lake

    run(lambda context: run_lake(context.kafka, context.settings, context.stop))


def postgres() -> None:
    """Run the tables' copy in PostgreSQL: customers, members, counts, events and the rest, each record once."""
    from pipeline.query.postgres import run_postgres

    if Settings().postgres is None:
        typer.echo("headrace: no database named: set HEADRACE_POSTGRES to postgresql://user:password@host/db", err=True)
        raise typer.Exit(2)
    run(lambda context: run_postgres(context.kafka, context.settings, context.stop))


def _with_secrets(role: Callable[..., Awaitable[None]]) -> Callable[[Context], Awaitable[None]]:
    async def main(context: Context) -> None:
        from pipeline.control.log import ControlLog
        from pipeline.control.secrets import Secrets, load_keys

        control = ControlLog(context.kafka)
        secrets = Secrets(context.kafka, load_keys(context.settings))
        await control.start()
        try:
            await secrets.start()
            await role(context.kafka, control, secrets, context.settings, context.stop)
        finally:
            await secrets.stop()
            await control.stop()

    return main
