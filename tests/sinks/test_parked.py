"""Customers who wait for a retry, on disk: what is put is found, by its lane alone; nothing outlives its process."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from eventually import eventually
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sinks_world import LANES, World

from pipeline.sinks.barrier import Item
from pipeline.sinks.parked import Parked, Shelf
from pipeline.stream.transaction import partition_for

_KEYS = st.sampled_from([b"", b"a", b"ab", b"\xff" * 9, b"a\x00", b"k" * 300])
_NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
_ITEMS = st.lists(
    st.builds(
        Item,
        origin=_NUMBERS,
        tier=st.sampled_from([None, "5s", "5m", "1h"]),
        hop=st.integers(0, (1 << 32) - 1),
        due=_NUMBERS,
        offset=_NUMBERS,
    ),
    min_size=1,
    max_size=5,
)


def shown(items: list[Item[Any]]) -> list[tuple[Any, ...]]:
    return [(item.origin, item.tier, item.hop, item.due, item.loaded, item.offset) for item in items]


class Shelves(RuleBasedStateMachine):
    """Two lanes' in one process, beside a dict."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.parked = Parked(Path(self.folder.name))
        asyncio.run(self.parked.open())
        self.shelves = [self.parked.shelf(), self.parked.shelf()]
        self.model: list[dict[bytes, list[Item[Any]]]] = [{}, {}]

    @rule(lane=st.integers(0, 1), key=_KEYS, items=_ITEMS)
    def put(self, lane: int, key: bytes, items: list[Item[Any]]) -> None:
        if key not in self.model[lane]:
            assert self.shelves[lane].put(key, items)
            self.model[lane][key] = items

    @rule(lane=st.integers(0, 1), key=_KEYS)
    def take(self, lane: int, key: bytes) -> None:
        assert shown(self.shelves[lane].look(key)) == shown(self.model[lane].get(key, []))
        assert shown(self.shelves[lane].take(key)) == shown(self.model[lane].pop(key, []))
        assert self.shelves[lane].take(key) == []

    @precondition(lambda self: any(self.model))
    @rule(lane=st.integers(0, 1))
    def another_owner(self, lane: int) -> None:
        self.shelves[lane].clear()
        self.shelves[lane] = self.parked.shelf()
        self.model[lane] = {}

    @invariant()
    def all_are_counted(self) -> None:
        assert [len(shelf) for shelf in self.shelves] == [len(known) for known in self.model]

    def teardown(self) -> None:
        asyncio.run(self.parked.close())
        assert os.listdir(self.folder.name) == []
        self.folder.cleanup()


TestShelves = Shelves.TestCase
TestShelves.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)


async def shelf(folder: Path) -> tuple[Parked, Shelf]:
    parked = Parked(folder)
    await parked.open()
    return parked, parked.shelf()


_PROCESS = """
import asyncio, sys
from pathlib import Path
from pipeline.sinks.barrier import Item
from pipeline.sinks.parked import Parked

async def main():
    parked = Parked(Path(sys.argv[1]))
    await parked.open()
    shelf = parked.shelf()
    for number in range(200_000):
        shelf.put(b"%d" % number, [Item(number, "1h", 1, 0)])
    print("full", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_what_a_killed_process_left_is_neither_found_nor_kept(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROCESS, str(tmp_path), env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert other.stdout is not None
    try:
        assert await asyncio.wait_for(other.stdout.readline(), 60) == b"full\n"
        parked, mine = await shelf(tmp_path)
        assert mine.put(b"1", [Item(7, None, 0, 0)])
        assert [item.origin for item in mine.take(b"1")] == [7], "another process's place is another"
        await parked.close()
    finally:
        other.kill()
        await other.wait()
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.sst")) > 1_000_000
    parked, mine = await shelf(tmp_path)
    try:
        assert mine.look(b"1") == []
        assert list(tmp_path.rglob("*.sst")) == []
    finally:
        await parked.close()


async def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        await Parked(tmp_path / "file").open()


def customers(count: int) -> list[str]:
    """Of the first lane."""
    return [name for name in map(str, range(count * LANES * 2)) if partition_for(name.encode(), LANES) == 0][:count]


@pytest.mark.kafka
async def test_memory_holds_the_windows_however_many_customers_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sinks.lane.WINDOW", 50)
    world.settings.retry_schedule = "1h"
    world.receiver.answer = lambda body: web.Response(status=503)
    other, *waiting = customers(501)
    await world.send(waiting)
    engine = await world.engine()
    await eventually(lambda: len(world.receiver.hits) == 500, 60)
    for _ in range(2):
        world.receiver.answer = lambda body: web.Response()
        known = world.order().get(other, [])
        # To those who wait something comes anew, and waits too; to another it is sent.
        await world.send([*waiting[::7], other])
        await eventually(lambda known=known: world.order().get(other, []) > known, 30)
        lane = engine._outlets[world.partner, "hook"].lanes[0]
        await eventually(lambda lane=lane: lane.customers <= 50, 30, what="those who wait are let go of")
        assert set(world.order()) == {other}, "nobody is told a later record before an earlier one"
        await engine.stop()
        world.engines.remove(engine)
        engine = await world.engine()
    assert not engine.failure.done()


@pytest.mark.kafka
@pytest.mark.parametrize("shelved", [0, 100])
async def test_where_the_disk_takes_nothing_all_goes_on_in_memory(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, shelved: int
) -> None:
    class Full:
        """A disk that is full."""

        def put(self, key: bytes, value: bytes) -> None:
            raise OSError("no space left on device")

        def path(self) -> str:
            return str(world.data_dir / "nowhere")

        def close(self) -> None:
            pass

    monkeypatch.setattr("pipeline.sinks.parked._open", lambda folder: Full())
    monkeypatch.setattr("pipeline.sinks.lane._SHELVED", shelved)
    # So that the second who waits is not read from the retry topic before the first is done.
    monkeypatch.setattr("pipeline.sinks.lane.WINDOW", 1)
    world.settings.retry_schedule = "300ms,300ms"
    failed: set[str] = set()

    def answer(body: dict[str, Any]) -> web.Response:
        name = body["data"]["customer"]["id"]
        known = name in failed
        failed.add(name)
        return web.Response(status=200 if known else 503)

    world.receiver.answer = answer
    await world.engine()
    ann, bob = customers(2)
    await world.send([ann, bob, ann, ann, bob])
    await eventually(lambda: world.order() == world.expected(), 30)
    assert ("takes nothing" in caplog.text) is bool(shelved)
