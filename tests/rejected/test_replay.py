"""The rejected, on a real Kafka: listed, searched, mended, and replayed, each once."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from eventually import eventually
from records import make_topic, read_all

from pipeline.agents.judge import rejected
from pipeline.agents.judge_policy import judge_all
from pipeline.control.reducer import ControlState
from pipeline.events.patch import compile_patch
from pipeline.events.verdicts import RejectError
from pipeline.models.control import Source
from pipeline.models.patch import Patch
from pipeline.rejected.log import REJECTED, REPLAYED, Choice, RejectedError, RejectedLog, Where
from pipeline.rejected.replay import Outcome, Replay
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka
from pipeline.topics.apply import ensure
from pipeline.topics.wanted import wanted

pytestmark = pytest.mark.kafka


@dataclass
class Room:
    """A partner of the test's own, with one source and what was rejected of it."""

    kafka: Kafka
    partner: str
    state: ControlState
    log: RejectedLog

    @property
    def topic(self) -> str:
        return f"raw.{self.partner}.app"

    def source(self, **changes: Any) -> None:
        self.state.offset += 1
        before = self.state.sources.get((self.partner, "app"))
        fields = {"id": "app", "partner": self.partner, "name": "App", "code": "app"}
        now = {} if before is None else before.model_dump()
        made = Source.model_validate({"version": 1, "created": 0, "updated": 0} | fields | now | changes)
        self.state.sources[self.partner, "app"] = made

    async def reject(self, *bodies: Any, headers: list[tuple[str, bytes]] | None = None) -> list[Where]:
        """Put them on `rejected` as intake would have."""
        source = self.state.sources[self.partner, "app"]
        producer = self.kafka.producer()
        await producer.start()
        places = []
        try:
            for offset, body in enumerate(bodies):
                value = body if isinstance(body, bytes) else orjson.dumps(body)
                more = {"topic": self.topic, "partition": 1, "offset": offset, "key": b"k", "value": value}
                now = int(time.time() * 1000)
                with pytest.raises(RejectError) as caught:
                    judge_all(source, value, headers or [], appended=now, control=0, fallback_id="f")
                row = rejected(caught.value, timestamp=now - 60_000, headers=headers or [], source=source, **more)
                key = f"{self.partner}.app".encode()
                sent = await producer.send_and_wait(REJECTED, row, key=key, partition=offset % 2)
                places.append(Where(sent.partition, sent.offset))
        finally:
            await producer.stop()
        return places

    def replay(self, *patch: dict[str, Any], **settings: Any) -> Replay:
        mend = compile_patch(Patch.model_validate({"operations": list(patch)})) if patch else None
        return Replay(self.log, self.state, self.partner, mend=mend, by="me", **settings)

    async def replayed(self, *patch: dict[str, Any], choice: Choice | None = None, **settings: Any) -> list[Outcome]:
        run = self.replay(*patch, **settings)
        return [outcome async for outcome in run.run(choice or Choice(self.partner))]

    async def raw(self, count: int) -> list[dict[str, Any]]:
        """What lies on the raw topic, with its headers. A commit is answered before its last marker is written."""

        async def there() -> list[dict[str, Any]]:
            records = await read_all(self.kafka, self.topic)
            assert len(records) >= count
            found = []
            for record in records:
                headers = {name: (content or b"").decode() for name, content in record.headers}
                found.append(orjson.loads(record.value) | {"headers": headers})
            return found

        found = await eventually(there, 20) if count else await there()
        assert len(found) == count
        return found


@pytest.fixture
async def room(kafka: Kafka, prefix: str) -> Room:
    settings = Settings(lanes=2)
    await ensure(kafka, [topic for topic in wanted(settings) if topic.name in (REJECTED, REPLAYED)])
    made = Room(kafka, prefix, ControlState(), RejectedLog(kafka))
    made.source()
    await make_topic(kafka, made.topic, 2)
    return made


NAMELESS = {"userId": "ann", "messageId": "m1"}
RENAME = {"op": "set", "path": "$.event", "value": "Seen"}


async def test_a_mended_record_is_replayed_once_however_often_it_is_asked_for(room: Room) -> None:
    (place,) = await room.reject(NAMELESS)
    assert [o.result for o in await room.replayed(dry_run=True)] == ["refused"]
    (dry,) = await room.replayed(RENAME, dry_run=True)
    assert (dry.result, dry.events[0]["name"], dry.events[0]["id"]) == ("would", "Seen", "m1")
    await room.raw(0)
    (done,) = await room.replayed(RENAME)
    assert (done.result, done.found.where) == ("replayed", place)
    (record,) = await room.raw(1)
    assert (record["event"], record["messageId"]) == ("Seen", "m1")
    assert record["headers"]["headrace_original"] == f"{room.topic}[1]@0"
    assert record["headers"]["headrace_replayed"] == str(place)
    for patch in ((RENAME,), ()):
        (again,) = await room.replayed(*patch)
        assert (again.result, again.to) == ("before", done.to)
    await room.raw(1)
    assert (await room.log.replayed())[place]["by"] == "me"


async def test_what_would_be_rejected_again_stays_and_says_why(room: Room) -> None:
    await room.reject(NAMELESS, b"no json", {"event": "E"})
    outcomes = {o.found.original.offset: o for o in await room.replayed(RENAME)}
    assert (outcomes[0].result, outcomes[1].result, outcomes[1].reason) == ("replayed", "refused", "patch")
    assert (outcomes[2].result, outcomes[2].reason, outcomes[2].path) == ("refused", "no_identity", "$.userId")
    fixed = await room.replayed(RENAME, {"op": "set", "path": "$.userId", "value": "bob"})
    assert sorted(o.result for o in fixed) == ["before", "refused", "replayed"]
    assert sorted(record["userId"] for record in await room.raw(2)) == ["ann", "bob"]


async def test_a_record_without_an_id_keeps_the_one_that_its_first_place_gave_it(room: Room) -> None:
    await room.reject({"userId": "ann"})
    (dry,) = await room.replayed(RENAME, dry_run=True)
    assert dry.events[0]["id"] == "k:1:0"
    await room.replayed(RENAME)
    await room.raw(1)
    (record,) = await read_all(room.kafka, room.topic)
    ((_, event),) = judge_all(
        room.state.sources[room.partner, "app"],
        record.value,
        record.headers,
        appended=record.timestamp,
        control=0,
        fallback_id="k:9:9",
    )
    again = orjson.loads(event)
    assert (again["id"], again["received"]) == ("k:1:0", dry.found.received)


async def test_an_old_code_and_a_changed_source_are_mended_without_touching_the_bytes(room: Room) -> None:
    room.source(code="new")
    await room.reject({"event": "E", "userId": "u"}, headers=[("ce_source", f"{room.partner}.app".encode())])
    assert [o.reason for o in await room.replayed(dry_run=True)] == ["wrong_code"]
    assert [o.result for o in await room.replayed({"op": "key"})] == ["replayed"]
    (record,) = await room.raw(1)
    assert record["headers"]["ce_source"] == f"{room.partner}.new"
    room.source(active=False)
    await room.reject({"event": "E", "userId": "off"})
    assert [o.reason for o in await room.replayed() if o.result != "before"] == ["inactive_source"]
    room.source(active=True)
    assert [o.result for o in await room.replayed() if o.result != "before"] == ["replayed"]


async def test_bytes_that_were_not_kept_are_lost_and_so_is_what_has_no_topic_any_more(room: Room) -> None:
    room.source(policy={"gpc": "anonymous"})
    await room.reject({"userId": "u"}, headers=[("headrace_gpc", b"1")])
    (lost,) = await room.replayed(RENAME)
    assert (lost.result, lost.reason) == ("lost", "withheld")


async def test_of_two_replays_at_once_each_record_is_written_once(room: Room) -> None:
    await room.reject(*({"userId": f"u{n}", "messageId": f"m{n}"} for n in range(60)))
    first, second = (asyncio.create_task(room.replayed(RENAME)) for _ in range(2))
    ended = await asyncio.gather(first, second, return_exceptions=True)
    assert all(isinstance(each, list | RejectedError) for each in ended), ended
    rest = await room.replayed(RENAME)
    assert {o.result for o in rest} <= {"before", "replayed"}
    assert sorted(record["userId"] for record in await room.raw(60)) == sorted(f"u{n}" for n in range(60))


async def test_a_replay_stops_at_its_limit_and_goes_on_where_it_was(room: Room) -> None:
    await room.reject(*({"userId": f"u{n}", "messageId": f"m{n}"} for n in range(10)))
    after: dict[int, int] = {}
    calls, results = 0, []
    while True:
        run = room.replay(RENAME, rate=10_000)
        async for outcome in run.run(Choice(room.partner), after, limit=4):
            results.append(outcome.result)
            where = outcome.found.where
            after[where.partition] = max(after.get(where.partition, 0), where.offset + 1)
        calls += 1
        if not run.more:
            break
    assert (calls, results) == (3, ["replayed"] * 10)


async def test_a_replay_is_no_faster_than_it_was_told(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.rejected.replay._MAX_RECORDS", 5)
    await room.reject(*({"userId": f"u{n}", "messageId": f"m{n}"} for n in range(15)))
    run = room.replay(RENAME, rate=5)
    moments = [time.monotonic() async for _ in run.run(Choice(room.partner))]
    # Three transactions of five; each waits a second for the one before it. The first may have taken longer than they.
    assert moments[-1] - moments[0] >= 1.5


async def test_the_newest_come_first_page_by_page_and_searched(room: Room) -> None:
    places = await room.reject(*({"userId": f"u{n}"} for n in range(5)), b"BROKEN \xff", {"event": "E"})
    page = await room.log.newest(Choice(room.partner), 100)
    assert {found.where for found in page.items} == set(places)
    assert page.before is None
    assert [found.at for found in page.items] == sorted((found.at for found in page.items), reverse=True)
    seen: list[Where] = []
    before = None
    while True:
        some = await room.log.newest(Choice(room.partner), 3, before)
        seen += [found.where for found in some.items]
        before = some.before
        if before is None:
            break
    assert seen == [found.where for found in page.items]

    async def offsets(**conditions: Any) -> set[int]:
        found = await room.log.newest(Choice(room.partner, **conditions), 100)
        return {each.original.offset for each in found.items}

    assert await offsets(reason="not_json") == {5}
    assert await offsets(text="broken") == {5}
    assert await offsets(text='"u3"') == {3}
    assert await offsets(text="must say whose") == {6}
    assert await offsets(source="other") == set()
    assert await offsets(since=int(time.time() * 1000) + 60_000) == set()
    assert await offsets(until=page.items[-1].at) == set()
    found = await room.log.find(room.partner, places[5])
    assert found is not None
    assert found.value == b"BROKEN \xff"
    assert await room.log.find("somebody-else", places[5]) is None
    assert await room.log.find(room.partner, Where(0, 10**12)) is None
    assert await room.log.find(room.partner, Where(99, 0)) is None


async def test_a_rejection_of_a_feed_goes_to_its_own_lane(room: Room) -> None:
    """It lay on no partition of ours: the parcel's id names it."""
    row = {
        "reason": "mapping",
        "detail": "-",
        "path": None,
        "partner": room.partner,
        "source": "app",
        "topic": room.topic,
        "partition": -1,
        "offset": -1,
        "received": 1_790_000_000_000,
        "key": None,
        "value": base64.b64encode(orjson.dumps({"userId": "u"})).decode(),
        "headers": [["ce_id", base64.b64encode(b"parcel-1").decode()]],
    }
    producer = room.kafka.producer()
    await producer.start()
    try:
        await producer.send_and_wait(REJECTED, orjson.dumps(row), key=f"{room.partner}.app".encode(), partition=1)
    finally:
        await producer.stop()
    (done,) = await room.replayed(RENAME)
    assert done.to is not None
    assert done.to.partition == 1
    (record,) = await room.raw(1)
    assert "headrace_original" not in record["headers"]
    assert record["headers"]["ce_id"] == "parcel-1"
