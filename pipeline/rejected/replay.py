"""Replay: rejected records back to their raw topics, mended by a patch or as they came. Each once.

Step by step, as a redrive does it (`stream.redrive`): fence the replay of the partner that may be at it; learn what was
replayed, by the markers; mend and judge each record that is chosen, by the control log as it is now; write those that
would be accepted, with their markers, a transaction for some of them. What would be rejected again stays where it is.

A record keeps the message id it had, or would have had: the one in its value or its header, else its first place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

import orjson

from pipeline.agents.judge_policy import judge_all
from pipeline.agents.policies import Policies
from pipeline.control.reducer import ControlState
from pipeline.events.patch import Mend, PatchError
from pipeline.events.verdicts import DropError, RejectError
from pipeline.models.failures import Replayed
from pipeline.rejected.log import REPLAYED, Choice, Found, RejectedError, RejectedLog, Where
from pipeline.stream.dead_letters import APPENDED, ORIGINAL, Header, Place, partitions
from pipeline.stream.rewrite import Refused, Rewriter, Row

__all__ = ["Outcome", "Replay"]

REPLAYED_HEADER = "headrace_replayed"
#: A transaction takes at most so much.
_MAX_RECORDS, _MAX_BYTES = 200, 4_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Outcome:
    """What became of a rejection.

    ``replayed``: its record is at ``to``; ``would``: it would be (a dry run), and become ``events``; ``before``: it was
    replayed before, to ``to``; ``refused``: it would be rejected again, for ``reason``, or can't be mended (`patch`);
    ``lost``: its bytes were not kept, its topic is gone, or the broker refuses it.
    """

    found: Found
    result: Literal["replayed", "would", "before", "refused", "lost"]
    to: Place | None = None
    reason: str = ""
    detail: str = ""
    path: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)


class _Ready(NamedTuple):
    """A rejection, its record as it is to be written, and the events that it would become."""

    found: Found
    row: Row
    events: list[dict[str, Any]]


class Replay:
    """One replay of a partner's rejections.

    ``mend``: a compiled patch; ``rate``: records a second, at most; ``by``: who asks, for the marker. What is rejected
    while it runs is left alone.
    """

    def __init__(
        self,
        log: RejectedLog,
        state: ControlState,
        partner: str,
        *,
        mend: Mend | None = None,
        dry_run: bool = False,
        rate: float = 500,
        by: str = "",
    ) -> None:
        self._log = log
        self._policies = Policies()
        self._policies.follow(state)
        self._partner = partner
        self._mend = mend
        self._dry_run = dry_run
        self._rate = rate
        self._by = by
        self._writer = Rewriter(
            log.kafka, f"headrace-replay-{partner}", f"replay of {partner}'s rejections", RejectedError
        )
        self._marks: dict[Where, dict[str, Any]] = {}
        self._topics: dict[str, bool] = {}
        self._due = 0.0
        self.more = False

    async def run(
        self, choice: Choice, after: Mapping[int, int] | None = None, *, limit: int = 1000, seconds: float = 20.0
    ) -> AsyncGenerator[Outcome]:
        """An outcome a rejection, once it is committed; by partition and offset, from the offsets ``after`` on.

        ``limit``, ``seconds``: what it looks at and takes, at most; `more` says then that there is more to do. Raises
        RejectedError when it can't go on, KafkaError and OSError. What was told is done; run another one for the rest,
        which does nothing twice.
        """
        ready: list[_Ready] = []
        self._due = time.monotonic()
        until = self._due + seconds
        try:
            if not self._dry_run:
                await self._writer.fence()
            self._marks = await self._log.replayed()
            async with aclosing(self._log.oldest(choice, after)) as rejections:
                async for found in rejections:
                    if limit <= 0 or time.monotonic() > until:
                        self.more = True
                        break
                    limit -= 1
                    judged = await self._judge(found)
                    if isinstance(judged, Outcome):
                        yield judged
                        continue
                    ready.append(judged)
                    if len(ready) >= _MAX_RECORDS or sum(len(each.row.value or b"") for each in ready) >= _MAX_BYTES:
                        async for outcome in self._deliver(ready):
                            yield outcome
                        ready = []
            async for outcome in self._deliver(ready):
                yield outcome
        finally:
            await self._writer.close()

    async def _judge(self, found: Found) -> Outcome | _Ready:
        """The record as it would be written, and the events that it would become; or why not."""
        mark = self._marks.get(found.where)
        if mark is not None:
            return _before(found, mark)
        if found.withheld:
            return Outcome(found, "lost", reason="withheld", detail="its bytes were not kept: its client refused that")
        if not await self._there(found.original.topic):
            detail = f"topic {found.original.topic} is not there any more"
            return Outcome(found, "lost", reason="unknown_source", detail=detail)
        rules = self._policies.of(found.original.topic)
        value, headers = found.value, list(found.headers)
        try:
            if self._mend is not None and rules is not None:
                value, mended = self._mend(value or b"", headers, rules.source.key)
                headers = [(name, content or b"") for name, content in mended]
            headers = _stamped(found, headers)
            events = judge_all(
                rules.source if rules is not None else None,
                value,
                headers,
                appended=int(time.time() * 1000),
                control=self._policies.offset,
                fallback_id=f"k:{found.original.partition}:{found.original.offset}",
                rules=rules,
            )
        except PatchError as error:
            return Outcome(found, "refused", reason="patch", detail=str(error), path=error.path)
        except RejectError as error:
            return Outcome(found, "refused", reason=error.reason, detail=error.detail, path=error.path)
        except DropError as dropped:
            detail = f"the source's policy keeps nothing of it ({dropped.why})"
            return Outcome(found, "refused", reason="dropped", detail=detail)
        # A bridge's rejection lay on no partition of ours; its own lane is as good.
        partition = found.original.partition if found.original.partition >= 0 else found.where.partition
        row = Row(found.original.topic, partition, found.key, value, headers)
        return _Ready(found, row, [orjson.loads(event) for _, event in events])

    async def _there(self, topic: str) -> bool:
        if topic not in self._topics:
            self._topics[topic] = bool(await partitions(self._log.kafka, topic))
        return self._topics[topic]

    async def _deliver(self, ready: list[_Ready]) -> AsyncGenerator[Outcome]:
        """One transaction; where the broker refuses one of several, each goes alone, so that the rest is done."""
        if self._dry_run:
            for each in ready:
                yield Outcome(each.found, "would", events=each.events)
            return
        for each in ready:
            if each.found.where in self._marks:
                yield _before(each.found, self._marks[each.found.where])
        ready = [each for each in ready if each.found.where not in self._marks]
        if not ready:
            return
        await self._pace(len(ready))

        def markers(places: list[Place]) -> list[Row]:
            return [self._marker(each.found, place) for each, place in zip(ready, places, strict=True)]

        try:
            places = await self._writer.send([each.row for each in ready], markers)
        except Refused as refused:
            # A producer that was refused is spent; a new one fences anew, and another replay may have been faster.
            await self._writer.fence()
            self._marks = await self._log.replayed()
            if len(ready) == 1:
                yield Outcome(ready[0].found, "lost", reason="too_large", detail=str(refused))
                return
            for each in ready:
                async for outcome in self._deliver([each]):
                    yield outcome
        else:
            for each, place in zip(ready, places, strict=True):
                yield Outcome(each.found, "replayed", to=place)

    async def _pace(self, records: int) -> None:
        """Wait until so many more may be written."""
        now = time.monotonic()
        if self._due > now:
            await asyncio.sleep(self._due - now)
        self._due = max(self._due, now) + records / self._rate

    def _marker(self, found: Found, to: Place) -> Row:
        body = Replayed(
            replayed=found.where.offset,
            at=int(time.time() * 1000),
            topic=to.topic,
            partition=to.partition,
            offset=to.offset,
            by=self._by,
        )
        return Row(REPLAYED, found.where.partition, f"{found.partner}.{found.source}".encode(), body.to_json(), [])


def _before(found: Found, mark: dict[str, Any]) -> Outcome:
    return Outcome(found, "before", to=Place(mark["topic"], mark["partition"], mark["offset"]))


def _stamped(found: Found, headers: list[Header]) -> list[Header]:
    """The headers of the replayed record. One that was written again before keeps its first place."""
    stamped = [header for header in headers if header[0] != REPLAYED_HEADER]
    if all(name != ORIGINAL for name, _ in stamped) and found.original.partition >= 0:
        stamped.append((ORIGINAL, str(found.original).encode()))
    if all(name != APPENDED for name, _ in stamped):
        with suppress(OverflowError):
            moment = _EPOCH + timedelta(milliseconds=found.received)
            stamped.append((APPENDED, moment.isoformat(timespec="milliseconds").encode()))
    return [*stamped, (REPLAYED_HEADER, str(found.where).encode())]
