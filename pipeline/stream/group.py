"""Who owns which lane: a Faust app whose group forms on one fixed topic (decision 3).

The topic ``lanes.<role>`` is empty and has as many partitions as there are lanes; the member that Faust
assigns partition n owns lane n. A new source therefore costs no rebalance, and the group's protocol,
rebalancing and membership stay Faust's. Hazards that this avoids: docs/architecture.md, "Why Faust so".
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import faust
from faust.types import TP

from pipeline.stream.kafka import Kafka, disconnect

__all__ = ["LaneGroup", "faust_app", "until"]

log = logging.getLogger(__name__)

#: A topic that was made a moment ago may not be known to every broker yet.
_FOUND_SECONDS = 10.0
_STOP_SECONDS = 5.0

LanesCallback = Callable[[set[int]], Awaitable[None]]
#: Gets (lanes owned now, lanes to keep a standby of).
SettledCallback = Callable[[set[int], set[int]], Awaitable[None]]


class _App(faust.App):  # type: ignore[misc]
    def _create_directories(self) -> None:
        """None: Faust's tables are not used, and it would leave a folder in the working directory."""


def faust_app(kafka: Kafka, name: str, **settings: Any) -> faust.App:
    """A Faust app without the parts that hurt: no web server, no tables, no leader topic, no Kafka producer load.

    Raises faust.exceptions.ImproperlyConfigured for settings that Faust refuses.
    """
    defaults: dict[str, Any] = {
        "broker": [f"aiokafka://{server}" for server in kafka.bootstrap_servers.split(",")],
        "broker_credentials": _credentials(kafka),
        "autodiscover": False,
        "web_enabled": False,
        "web_tables_enabled": False,
        "web_router_enabled": False,
        "topic_disable_leader": True,
        "topic_allow_declare": False,
        "broker_session_timeout": 10.0,
        "broker_heartbeat_interval": 2.0,
        "broker_rebalance_timeout": 30.0,
        # For ever: a member that has no lane polls nothing, would leave after this and never come back (aiokafka #720).
        "broker_max_poll_interval": 1e9,
        # Faust refuses a session that is longer.
        "broker_request_timeout": max(90.0, 2 * settings.get("broker_session_timeout", 0.0)),
        # The same for every member, wherever it runs: a static one that comes back under another host name would be
        # refused its old assignment, which names the URL. Nothing is served there.
        "canonical_url": "http://headrace",
        "stream_wait_empty": False,
        "stream_buffer_maxsize": 16,
        "consumer_auto_offset_reset": "latest",
    }
    return _App(name, **{k: v for k, v in (defaults | settings).items() if v is not None})


def _credentials(kafka: Kafka) -> faust.types.auth.CredentialsT | None:
    context = kafka.ssl_context()
    if kafka.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=kafka.sasl_username,
            password=kafka.sasl_password,
            mechanism=kafka.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


async def until(stop: asyncio.Event, failures: Sequence[asyncio.Future[None]]) -> None:
    """Return when ``stop`` is set. Raises what the first of ``failures`` that is done died of."""
    stopped = asyncio.create_task(stop.wait(), name="until stop")
    try:
        waiting: list[asyncio.Future[Any]] = [stopped, *failures]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for failure in failures:
            if failure.done():
                failure.result()
    finally:
        stopped.cancel()


class LaneGroup:
    """Membership of one role's group: tells which lanes this process gains and loses.

    A rebalance revokes everything: ``on_revoked`` gets the lanes owned until then, and has returned before Kafka
    gives one to another member (unless this process was taken for dead). Then ``on_settled`` gets the lanes owned
    from now on, and those that Faust's assignor wants a standby of here (``standbys`` copies of each lane, on other
    members than its owner, and the owner's successor one of them). Both run on the loop that called ``start``.
    """

    def __init__(
        self,
        kafka: Kafka,
        group: str,
        topic: str,
        lanes: int,
        on_settled: SettledCallback,
        on_revoked: LanesCallback,
        *,
        app: faust.App | None = None,
    ) -> None:
        self.owned: set[int] = set()
        self.lanes = lanes
        self._kafka = kafka
        self._topic = topic
        self._on_settled = on_settled
        self._on_revoked = on_revoked
        self.app = app or faust_app(kafka, group)
        membership = self.app.topic(topic, value_serializer="raw", key_serializer="raw")

        self.app.agent(membership, name=f"{group}.membership")(_hold)
        self.app.on_partitions_revoked.connect(self._revoked)
        self.app.on_partitions_assigned.connect(self._assigned)

    async def start(self) -> None:
        """Join the group; returns when the app runs, lanes arrive by callback.

        Raises ValueError when the topic is not there, or has another number of partitions than there are lanes.
        """
        await self._check_topic()
        await self.app.start()

    async def stop(self) -> None:
        """Give all lanes up (``on_revoked`` first), then leave the group."""
        if self.owned:
            lost, self.owned = self.owned, set()
            await self._on_revoked(lost)
        # Faust waits for a broker that is gone; whoever ends it then is its own heartbeat's silence.
        await disconnect(self.app, _STOP_SECONDS)

    async def _check_topic(self) -> None:
        admin = self._kafka.admin()
        await admin.start()
        deadline = time.monotonic() + _FOUND_SECONDS
        try:
            (found,) = await admin.describe_topics([self._topic])
            while found["error_code"] and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
                (found,) = await admin.describe_topics([self._topic])
        finally:
            await admin.close()
        if found["error_code"]:
            raise ValueError(f"topic {self._topic} is not there; run `headrace topics apply`")
        partitions = len(found["partitions"])
        if partitions != self.lanes:
            raise ValueError(
                f"topic {self._topic} has {partitions} partitions and HEADRACE_LANES is {self.lanes}; "
                f"set it to {partitions}, as it was when the topics were made"
            )

    async def _revoked(self, app: faust.App, revoked: set[TP], **kwargs: Any) -> None:
        lost = {tp.partition for tp in revoked if tp.topic == self._topic} & self.owned
        if lost:
            self.owned -= lost
            await self._on_revoked(lost)

    async def _assigned(self, app: faust.App, assigned: set[TP], **kwargs: Any) -> None:
        self.owned = {tp.partition for tp in assigned if tp.topic == self._topic}
        standbys = {tp.partition for tp in app.assignor.assigned_standbys() if tp.topic == self._topic}
        log.info("lanes owned: %s; standbys: %s", sorted(self.owned) or "none", sorted(standbys) or "none")
        await self._on_settled(set(self.owned), standbys - self.owned)


async def _hold(stream: faust.Stream) -> None:
    async for _ in stream:
        pass  # nothing is ever sent there; being subscribed is the point
