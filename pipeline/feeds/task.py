"""One consumer of one source: take from the origin, make raw events, have the lane commit them, acknowledge.

Whatever fails, the message was not acknowledged and comes again, with the same id. A source that fails waits by itself,
a little longer each time, and holds up no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from pipeline.bridges.base import BridgeRequest, Feed, Opening, Parcel, RawOut, Refused, SetupFault
from pipeline.control.faults import fault
from pipeline.control.secrets import SecretError
from pipeline.feeds.lane import FeedLane, LaneLost, Work
from pipeline.feeds.status import Teller
from pipeline.guard import Guard
from pipeline.models.control import Source
from pipeline.models.failures import Rejected
from pipeline.models.feeds import FeedState, FeedStatus

__all__ = ["FeedTask", "SecretSource"]

log = logging.getLogger(__name__)

_TAKE_SECONDS = 0.5
_OPEN_SECONDS = 60.0
#: Between attempts: doubled each time, and spread.
_RETRY_SECONDS = (1.0, 60.0)
#: What somebody must mend may have been mended at the origin.
_FAULT_SECONDS = 120.0
_STOP_SECONDS = 10.0
#: A take that is larger is made into events by a thread.
_THREAD_BYTES = 512 << 10
#: Kept of what was refused; the topic's limit is 4 MiB, and base64 makes four bytes of three.
_KEPT_BYTES = 2 << 20
_REASON = 1000
_PROCESS = f"{socket.gethostname()}:{os.getpid()}"


class SecretSource(Protocol):
    """As `pipeline.control.secrets.Secrets`."""

    def get(self, name: str) -> str:
        """The secret's value. Raises SecretError."""
        ...


class FeedTask:
    """Runs from `start` to `stop`, for the source as it is now: an edited one gets a new task."""

    def __init__(
        self,
        feed: Feed,
        source: Source,
        number: int,
        lane: FeedLane,
        secrets: SecretSource,
        teller: Teller,
        guard: Guard,
        folders: Sequence[Path],
    ) -> None:
        self.source = source
        self._feed = feed
        self._number = number
        self._lane = lane
        self._secrets = secrets
        self._teller = teller
        self._guard = guard
        self._folders = folders
        self._prefix = f"{source.partner}.{source.id}.{number}|"
        self._name = f"feed {source.partner}.{source.id}.{number}"
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._recording = False
        now = _now()
        self._status = FeedStatus(
            partner=source.partner,
            source=source.id,
            number=number,
            version=source.version,
            state="waiting",
            reason="it connects",
            since=now,
            as_of=now,
            lane=lane.number,
            process=_PROCESS,
        )

    def start(self) -> None:
        """Begin to connect."""
        self._teller.tell(self._status)
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """Finish what is at hand, within the budget, and disconnect."""
        self._stopping.set()
        if self._task is None:
            return
        if self._recording:
            await asyncio.wait([self._task], timeout=_STOP_SECONDS)
        # Connecting, or waiting for messages: there is nothing to finish.
        self._task.cancel()
        await asyncio.wait([self._task], timeout=_STOP_SECONDS)

    def state_keys(self) -> list[bytes]:
        """The keys of all positions of this consumer."""
        return [key for key in self._lane.positions if key.startswith(self._prefix.encode())]

    # -- connecting ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopping.is_set():
            await self._or_stop(self._lane.opened())
            if self._stopping.is_set():
                return
            try:
                await self._connected()
            except SetupFault as error:
                self._tell("fault", str(error))
                await self._pause(_FAULT_SECONDS * (0.5 + random.random()))
            except LaneLost as error:
                self._tell("waiting", f"our own Kafka: {error}")
                await self._pause(random.random())
            except (OSError, SecretError) as error:  # TimeoutError is an OSError
                self._tell("waiting", str(error) or repr(error))
                await self._pause(self._backoff())
            except Exception as error:
                log.exception("%s: our own code failed", self._name)
                self._tell("waiting", f"our own code failed: {type(error).__name__}; the log has the traceback")
                await self._pause(self._backoff())

    async def _connected(self) -> None:
        try:
            settings = self._feed.Settings.model_validate(self.source.settings)
        except ValidationError as error:
            path, message = fault(error, self.source.settings, "$.settings")
            raise SetupFault(f"{message} (at {path})") from None
        secret = self._secrets.get(self.source.secret) if self.source.secret is not None else None
        prefix = self._prefix.encode()
        positions = {key[len(prefix) :].decode(): self._lane.positions[key] for key in self.state_keys()}
        opening = Opening(self.source, settings, secret, positions, self._number, self._guard, self._folders)
        self._recording = False
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(_OPEN_SECONDS):
                    stream = await stack.enter_async_context(self._feed.open(opening))
            except TimeoutError:
                raise OSError(f"it did not answer within {_OPEN_SECONDS:g} s") from None
            self._tell("running", "")
            while not self._stopping.is_set():
                parcels = await stream.take(_TAKE_SECONDS)
                if parcels:
                    self._recording = True
                    await self._record(parcels)
                    await stream.done(parcels)
                    self._recording = False
                    self._failures = 0
                if parcels or stream.lag != self._status.lag:
                    self._change(lag=stream.lag)

    async def _or_stop(self, wanted: Any) -> None:
        waiting = {asyncio.ensure_future(wanted), asyncio.ensure_future(self._stopping.wait())}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _backoff(self) -> float:
        least, most = _RETRY_SECONDS
        self._failures += 1
        return float(min(most, least * 2 ** min(self._failures - 1, 10)) * (0.5 + random.random() / 2))

    # -- recording -------------------------------------------------------------------------------------------

    async def _record(self, parcels: Sequence[Parcel]) -> None:
        size = sum(len(parcel.body) for parcel in parcels if parcel.body is not None)
        now = _now()
        if size > _THREAD_BYTES:
            events, rejected = await asyncio.to_thread(self._parse, parcels, now)
        else:
            events, rejected = self._parse(parcels, now)
        positions = {
            f"{self._prefix}{parcel.place}".encode(): parcel.position
            for parcel in parcels
            if parcel.position is not None
        }
        if events or rejected or positions:
            await self._lane.write(Work(self.source.topic, events, rejected, positions))
        if messages := sum(parcel.body is not None for parcel in parcels):
            self._change(
                taken=self._status.taken + messages - len(rejected),
                refused=self._status.refused + len(rejected),
                last=_now(),
            )

    def _parse(
        self, parcels: Sequence[Parcel], now: int
    ) -> tuple[list[tuple[RawOut, list[tuple[str, bytes]]]], list[tuple[bytes, bytes]]]:
        shared = self._headers(now)
        events: list[tuple[RawOut, list[tuple[str, bytes]]]] = []
        rejected: list[tuple[bytes, bytes]] = []
        for parcel in parcels:
            if parcel.body is None:
                continue
            request = BridgeRequest("feed", parcel.headers, parcel.body, id=parcel.id)
            try:
                parsed = self._feed.parse(request, self.source, (), now)
            except Refused as refused:
                rejected.append(self._rejected(parcel, refused.code, refused.message, refused.path, now))
                continue
            except Exception as error:
                log.exception("ALERT %s: our own code failed on message %s", self._name, parcel.id)
                detail = f"our own code failed on it ({type(error).__name__}); the log has the traceback"
                rejected.append(self._rejected(parcel, "shape", detail, None, now))
                continue
            events += [(event, [("ce_id", event.message_id.encode()), *shared]) for event in parsed.events]
            rejected += [self._rejected(parcel, f.code, f.message, f.path, now) for f in parsed.faults]
        return events, rejected

    def _headers(self, now: int) -> list[tuple[str, bytes]]:
        """As the gateway gives them, but for `ce_source`: no client has passed a code, so none can be an old one."""
        moment = datetime.fromtimestamp(now / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        known = {
            "ce_specversion": "1.0",
            "ce_type": "headrace.raw.v1",
            "ce_time": moment,
            "headrace_bridge": self.source.bridge,
        }
        return [(name, text.encode()) for name, text in known.items()]

    def _rejected(self, parcel: Parcel, code: str, detail: str, path: str | None, now: int) -> tuple[bytes, bytes]:
        """Key and value for the topic `rejected`. It lay nowhere with us yet: no partition, no offset."""
        source, body = self.source, parcel.body or b""
        if len(body) > _KEPT_BYTES:
            detail = f"{detail} (of its {len(body)} bytes the first {_KEPT_BYTES} are kept)"
        value = Rejected(
            reason=code,
            detail=detail,
            path=path,
            partner=source.partner,
            source=source.id,
            topic=source.topic,
            partition=-1,
            offset=-1,
            received=now,
            value=b64encode(body[:_KEPT_BYTES]).decode(),
            headers=[
                ("ce_id", b64encode(parcel.id.encode()).decode()),
                ("headrace_bridge", b64encode(source.bridge.encode()).decode()),
                *((name, b64encode(text.encode()).decode()) for name, text in parcel.headers.items()),
            ],
        )
        return f"{source.partner}.{source.id}".encode(), value.to_json()

    # -- telling ---------------------------------------------------------------------------------------------

    def _tell(self, state: FeedState, reason: str) -> None:
        reason = reason[:_REASON]
        if (state, reason) != (self._status.state, self._status.reason):
            level = {"running": logging.INFO, "waiting": logging.WARNING, "fault": logging.ERROR}[state]
            log.log(level, "%s: %s%s", self._name, state, f": {reason}" if reason else "")
        since = self._status.since if state == self._status.state else _now()
        self._change(state=state, reason=reason, since=since)

    def _change(self, **fields: Any) -> None:
        self._status = self._status.model_copy(update=fields)
        self._teller.tell(self._status)


def _now() -> int:
    return int(time.time() * 1000)
