"""A Kafka to be hard on: short times, a second listener whose address a proxy takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.broker.embedded import EmbeddedBroker, _free_port

__all__ = ["ChaosBroker"]

_LOOPBACK = "127.0.0.1"
#: What takes a user minutes to see takes a test seconds.
_SHORT = {
    "group.min.session.timeout.ms": 1_000,
    "log.cleaner.backoff.ms": 500,
    "log.retention.check.interval.ms": 1_000,
    "log.initial.task.delay.ms": 500,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1_000,
    "transaction.max.timeout.ms": 900_000,
}


class ChaosBroker(EmbeddedBroker):
    """The embedded broker; who asks at ``proxied_port`` is told to go on at ``proxy_port``, for a proxy."""

    def __init__(self, data_dir: Path, settings: Mapping[str, object] | None = None, **kwargs: Any) -> None:
        super().__init__(data_dir, **kwargs)
        self.proxied_port = _free_port()
        self.proxy_port = _free_port(besides=self.proxied_port)
        self._settings = _SHORT | dict(settings or {})

    def _configure(self, controller_port: int) -> None:
        super()._configure(controller_port)
        listeners = f"PLAINTEXT://{_LOOPBACK}:{self.port},PROXIED://{_LOOPBACK}:"
        settings = {
            "listeners": f"{listeners}{self.proxied_port},CONTROLLER://{_LOOPBACK}:{controller_port}",
            "advertised.listeners": f"{listeners}{self.proxy_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        } | self._settings
        with (self.data_dir / "server.properties").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())
