"""What the bridge role needs around it in tests: control, secrets, topics of its own, engines here or as processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
from records import read_all

from pipeline.bridges.registry import FEEDS
from pipeline.control.secrets import SecretError
from pipeline.feeds.engine import FeedEngine
from pipeline.feeds.lane import Names
from pipeline.feeds.status import StatusBoard
from pipeline.models.control import Source
from pipeline.models.feeds import FeedStatus
from pipeline.settings import KafkaSettings, Settings
from pipeline.stream.group import LaneGroup
from pipeline.stream.kafka import Kafka
from pipeline.topics.apply import ensure
from pipeline.topics.spec import expand, load

__all__ = ["LANES", "World", "raw_events"]

LANES = 2


class _Secrets(dict[str, str]):
    failure: Any = None

    def get(self, name: str) -> str:  # type: ignore[override]
        if name not in self:
            raise SecretError(f"secret {name} is unknown")
        return self[name]


@dataclass
class World:
    """One partner, named as the test's prefix; the role's topics begin with it too."""

    kafka: Kafka
    partner: str
    folders: str = ""
    networks: str = "127.0.0.0/8"
    secrets: _Secrets = field(default_factory=_Secrets)

    def __post_init__(self) -> None:
        self._callbacks: list[Callable[[Any], None]] = []
        self.state = SimpleNamespace(sources={})
        self.engines: list[FeedEngine] = []
        self.names = Names(
            app=f"{self.partner}-bridge",
            lanes=f"{self.partner}.lanes",
            state=f"{self.partner}.state",
            status=f"{self.partner}.status",
            rejected=f"{self.partner}.rejected",
        )
        self.settings = Settings(lanes=LANES, allow_networks=self.networks, allow_folders=self.folders)
        self.board: StatusBoard | None = None

    async def start(self) -> None:
        """Make the topics, as topics.yaml has those that they stand for."""
        spec = {topic.name: topic for topic in expand(load(), LANES, 1)}
        own = {
            self.names.lanes: "lanes.bridge",
            self.names.state: "bridges.state",
            self.names.status: "bridges.status",
            self.names.rejected: "rejected",
        }
        await ensure(self.kafka, [spec[real].model_copy(update={"name": name}) for name, real in own.items()])
        self.board = StatusBoard(self.kafka, self.names)
        await self.board.start()

    async def stop(self) -> None:
        """End what was started."""
        for engine in self.engines:
            await engine.stop()
        if self.board is not None:
            await self.board.stop()

    # In place of pipeline.control.log.ControlLog, an interface within the process.
    def subscribe(self, callback: Callable[[Any], None]) -> Callable[[], None]:
        """Call back after every change."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def put(self, bridge: str, settings: dict[str, Any], source: str = "feed", **fields: Any) -> Source:
        """Create or edit a source."""
        FEEDS[bridge].Settings.model_validate(settings)
        before = self.state.sources.get((self.partner, source))
        made = Source(
            id=source,
            partner=self.partner,
            name=source,
            code=source,
            bridge=bridge,
            settings=settings,
            version=before.version + 1 if before else 1,
            created=0,
            updated=0,
            **fields,
        )
        self.state.sources[self.partner, source] = made
        for callback in self._callbacks:
            callback(self.state)
        return made

    async def engine(self, lanes: set[int] | None = None) -> FeedEngine:
        """A running engine that owns all lanes, or these."""
        engine = FeedEngine(self.kafka, self, self.secrets, self.settings, names=self.names)
        self.engines.append(engine)
        await engine.start()
        await engine.settle(set(range(LANES)) if lanes is None else lanes)
        return engine

    async def end(self, engine: FeedEngine) -> None:
        """Stop one."""
        self.engines.remove(engine)
        await engine.stop()

    def status(self, source: str = "feed", number: int = 0) -> FeedStatus | None:
        """What was told last."""
        assert self.board is not None
        return next((one for one in self.board.of(self.partner, source) if one.number == number), None)

    def runs(self, source: str = "feed") -> bool:
        """Whether its first consumer says that it runs, with the settings of now."""
        told = self.status(source)
        made = self.state.sources[self.partner, source]
        return told is not None and told.state == "running" and told.version == made.version

    async def raw(self, source: str = "feed") -> list[tuple[str, dict[str, Any]]]:
        """What lies on the source's raw topic, committed: message id and event."""
        return await raw_events(self.kafka, f"raw.{self.partner}.{source}")

    async def ids(self, source: str = "feed") -> set[str]:
        """The distinct message ids on the raw topic."""
        return {name for name, _ in await self.raw(source)}

    async def refused(self) -> list[dict[str, Any]]:
        """What went to `rejected`."""
        return [orjson.loads(record.value) for record in await read_all(self.kafka, self.names.rejected)]

    @asynccontextmanager
    async def process(self, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """The role as a process of its own: a member of the lanes' group."""
        sources = [source.model_dump(mode="json", by_alias=True) for source in self.state.sources.values()]
        given = {"partner": self.partner, "sources": sources, "secrets": self.secrets, "folders": self.folders}
        running = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import asyncio, feeds_world; asyncio.run(feeds_world._role())",
            env=os.environ
            | {
                "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
                "FEEDS_WORLD": json.dumps(given),
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
            }
            | environment,
        )
        try:
            yield running
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()


async def raw_events(kafka: Kafka, topic: str) -> list[tuple[str, dict[str, Any]]]:
    """Message id (the event's own, else the header's, as intake has it) and event of each committed record."""
    found = []
    for record in await read_all(kafka, topic):
        event = orjson.loads(record.value)
        found.append((event.get("messageId") or dict(record.headers)["ce_id"].decode(), event))
    return found


async def _role() -> None:
    """What `World.process` runs."""
    given = json.loads(os.environ["FEEDS_WORLD"])
    world = World(KafkaSettings().kafka(), given["partner"], given["folders"])
    world.secrets.update(given["secrets"])
    for source in given["sources"]:
        world.state.sources[world.partner, source["id"]] = Source.model_validate(source)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    engine = FeedEngine(world.kafka, world, world.secrets, world.settings, names=world.names)
    await engine.start()
    group = LaneGroup(
        world.kafka, world.names.app, world.names.lanes, LANES, lambda owned, _: engine.settle(owned), engine.hold
    )
    await group.start()
    await stop.wait()
    await engine.stop()
    await group.stop()
