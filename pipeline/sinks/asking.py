"""Asking a tool: one record alone, or many in a request; what its answer means, and what no answer does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.control.secrets import SecretError
from pipeline.models.control import Integration
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Asked, BatchConfig, BatchSink, Classified, SetupError, SinkConfig
from pipeline.sinks.gatherer import Gatherer
from pipeline.sinks.http import Answer, NoAnswer
from pipeline.sinks.limiter import Limiter
from pipeline.sinks.registry import sink
from pipeline.sinks.wires import Wires

__all__ = ["Asker", "Attempt"]

log = logging.getLogger(__name__)

#: A secret may still be on its way: the control log can be ahead of the secrets.
_SECRET_SECONDS = 1.0


class Attempt(NamedTuple):
    """What was asked (None: no request could be made), what came back, and what that means."""

    request: Asked | None
    answer: Answer | None
    result: Classified


class _Part(NamedTuple):
    """One record of a batch, and what stands for it in a request."""

    dispatch: Dispatch
    body: bytes


class Asker:
    """Of one integration as it is set up now. ``at_once``: records that may be under way. ``gathers``: whether they go
    together."""

    def __init__(
        self, wires: Wires, integration: Integration, config: SinkConfig, fault: str | None, limiter: Limiter
    ) -> None:
        """``fault``: what is wrong with the settings, if anything is."""
        self._wires = wires
        self._kind = integration.kind
        self._topic = integration.topic
        self._secret_name = integration.secret
        self._config = config
        self._fault = fault
        self._limiter = limiter
        self._gatherer: Gatherer[_Part, Attempt] | None = None
        self.at_once = config.max_in_flight
        tool = None if fault else sink(integration.kind)
        if isinstance(tool, BatchSink) and isinstance(config, BatchConfig):
            most = min(config.batch or tool.most, tool.most)
            self._gatherer = Gatherer(
                self._ask_together,
                most=most,
                most_bytes=tool.most_bytes,
                linger_s=config.linger_ms / 1000,
                in_flight=config.max_in_flight,
            )
            self.at_once *= most
        self.gathers = self._gatherer is not None

    async def ask(self, dispatch: Dispatch) -> Attempt:
        """One attempt, alone or with others. Raises nothing of the tool's."""
        if self._gatherer is None or dispatch.test:
            # A test goes alone: what marks it as one marks all of its request, at Meta's.
            if self._gatherer is not None:
                await self._limiter.take()
            return await self._asked(dispatch.id, lambda now: self._request(dispatch, now))
        tool = sink(self._kind)
        assert isinstance(tool, BatchSink)
        try:
            part = tool.part(dispatch, self._config, int(time.time() * 1000))
        except Exception as error:
            return Attempt(None, None, self._failed(dispatch.id, error))
        return await self._gatherer.add(_Part(dispatch, part), len(part))

    async def _ask_together(self, parts: Sequence[_Part]) -> list[Attempt]:
        """In one request; what the log shows of it is each record's own. Refused as a whole, each goes alone: the tool
        does not say which of them it means."""
        await self._limiter.take()
        tool = sink(self._kind)
        assert isinstance(tool, BatchSink)
        bodies = [part.body for part in parts]
        request, answer, result = await self._asked(
            parts[0].dispatch.id, lambda now: self._request_of(bodies, now), apart=tool.whole
        )
        results = [result] * len(parts)
        if answer is not None and request is not None:
            try:
                each = tool.classify_each(answer.status, answer.headers, answer.body, bodies)
            except Exception as error:
                each = self._failed(parts[0].dispatch.id, error, answered=True)
            results = each if isinstance(each, list) else [each] * len(parts)
            if len(parts) > 1 and not isinstance(each, list) and each.outcome == "invalid":
                return [(await self._ask_together([part]))[0] for part in parts]
            if len(results) != len(parts):
                log.error("%s: the answer is about %d of %d records", self._topic, len(results), len(parts))
                results = [Classified("transient", "the answer is not about what was asked")] * len(parts)
        shown = [request] * len(parts)
        if request is not None and not tool.whole:
            shown = [self._request_of([body], int(time.time() * 1000)) for body in bodies]
        return [Attempt(each, answer, result) for each, result in zip(shown, results, strict=True)]

    async def _asked(self, name: str, make: Callable[[int], Asked], *, apart: bool = False) -> Attempt:
        """``apart``: the request is made in a thread, while the others are seen to."""
        request: Asked | None = None
        answer: Answer | None = None
        try:
            now = int(time.time() * 1000)
            request = await asyncio.to_thread(make, now) if apart else make(now)
            answer = await self._wires.transports.send(request, self._config.timeout_s)
            result = sink(self._kind).classify(answer.status, answer.headers, answer.body)
        except Exception as error:
            result = self._failed(name, error, answered=answer is not None)
        return Attempt(request, answer, result)

    def _failed(self, name: str, error: Exception, *, answered: bool = False) -> Classified:
        """What an exception means, of the transport or of the tool's code."""
        if isinstance(error, SetupError):
            return Classified("setup", str(error))
        if isinstance(error, SecretError):
            return Classified("setup", str(error), _SECRET_SECONDS)
        if isinstance(error, NoAnswer):
            if error.sent and self._config.when_unsure == "park":
                return Classified("invalid", f"{error}; it may have arrived, and is not sent again by itself")
            return Classified("transient", str(error))
        what = f"{type(error).__name__}: {error}"
        if not answered and isinstance(error, ValueError | TypeError | KeyError | RecursionError):
            # The record's content cannot be put into a request.
            return Classified("invalid", f"no request can be made of it: {what}")
        # One record that a tool's code fails on may not end the deliveries of all.
        log.error("%s: the code of %s failed on %s", self._topic, self._kind, name, exc_info=error)
        return Classified("transient", f"our code failed on it: {what}")

    def _request(self, dispatch: Dispatch, now: int) -> Asked:
        return sink(self._kind).request(dispatch, self._config, self._secret(), now)

    def _request_of(self, parts: Sequence[bytes], now: int) -> Asked:
        tool = sink(self._kind)
        assert isinstance(tool, BatchSink)
        return tool.request_of(parts, self._config, self._secret(), now)

    def _secret(self) -> str | None:
        if self._fault is not None:
            raise SetupError(self._fault)
        return self._wires.secrets.get(self._secret_name) if self._secret_name is not None else None
