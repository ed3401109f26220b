"""The gateway as a process runs it: `front` and uvicorn over `create_app`, a producer of its own, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets
from pipeline.gateway.app import create_app
from pipeline.gateway.client import Proxies
from pipeline.gateway.door import Door
from pipeline.gateway.front import front_for
from pipeline.gateway.limits import Limits
from pipeline.gateway.tracking import Tracking
from pipeline.gateway.upload_log import UploadLog
from pipeline.gateway.usage import Usage
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka
from pipeline.stream.producer import Producer

__all__ = ["Server", "run_gateway"]

#: Requests at one time; above it, 503.
_CONCURRENCY = 1000
#: Seconds for requests in flight when the gateway stops; longer than Kafka has to acknowledge.
_GRACE_S = 15


class Server(uvicorn.Server):
    """Leaves signals to the process: the role ends by its ``stop``."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run_gateway(
    kafka: Kafka,
    control: ControlLog,
    secrets: Secrets,
    settings: Settings,
    stop: asyncio.Event,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until ``stop`` is set; then take no more, answer what is in flight, deliver, and return.

    ``control`` and ``secrets`` are started and stay the caller's. ``ready`` is called with the base address
    (``http://127.0.0.1:8080``) once it takes requests. Raises OSError when the port is taken, and what ended
    the control log or the secrets if they end by themselves.
    """
    proxies = Proxies(settings.trusted_proxies)
    listener = _listen(settings)
    try:
        producer = Producer(kafka)
        await producer.start()
    except BaseException:
        listener.close()
        raise
    limits = Limits(uuid.uuid4().hex)
    usage = Usage(kafka, producer, limits)
    uploads = UploadLog(kafka, producer)
    door = Door(Tracking(control, producer, limits), proxies, calls=_CONCURRENCY)
    config = uvicorn.Config(
        create_app(control, secrets, producer, settings, limits, uploads),
        http=front_for(door),
        forwarded_allow_ips=settings.trusted_proxies,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=65,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve([listener]), name="gateway")
    usage.start()
    # What is there by now stays; a request leaves no cycles behind, so looking for them seldom is enough.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    sweeping = asyncio.create_task(_sweep(door), name="gateway sweep")
    stopping = asyncio.create_task(stop.wait(), name="gateway stop")
    failures = [control.failure, secrets.failure]
    try:
        if ready is not None:
            host, port = listener.getsockname()[:2]
            ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        ends: set[asyncio.Future[Any]] = {serving, stopping, *failures}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        sweeping.cancel()
        server.should_exit = True
        try:
            await serving
        finally:
            await uploads.stop()
            await usage.stop()
            await producer.stop()
    for failure in failures:
        if failure.done():
            failure.result()


async def _sweep(door: Door) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(1)
        door.sweep(loop.time())


def _listen(settings: Settings) -> socket.socket:
    """A bound, listening socket: connections queue from here on, so ``ready`` is true when it is called."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.gateway_port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        where = f"{settings.host}:{settings.gateway_port}"
        raise OSError(
            error.errno,
            f"the gateway cannot listen on {where} ({error.strerror}); set HEADRACE_GATEWAY_PORT or HEADRACE_HOST",
        ) from error
    return listener
