"""The roles, one process each: gateway, worker, sink. They share their start: Kafka, control log, secrets."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from pipeline.agents import ROLES
from pipeline.settings import KafkaSettings, Settings
from pipeline.stream.kafka import Kafka

__all__ = ["Context", "api", "gateway", "run", "sink", "worker"]

log = logging.getLogger(__name__)


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
        await main(Context(kafka, settings, stop))

    try:
        uvloop.run(start())
    except Exception as error:
        log.debug("failed", exc_info=True)
        typer.echo(f"headrace: {type(error).__name__}: {error}", err=True)
        raise typer.Exit(1) from None


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
