"""A small world for the gateway's tests: partner acme with a source of each kind, judged by the real reducer."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

from pipeline.control.reducer import ControlState
from pipeline.gateway.keys import digest
from pipeline.models.control import Command
from pipeline.stream.producer import ProduceError, Record

__all__ = ["COMMANDS", "SECRET", "Recorder", "StandIn", "command", "state_of"]


#: Of source `safe`; its id is `server-a`.
SECRET = "s3cr3t-of-thirty-two-characters!"


def command(verb: str, /, entity: str | None = None, expect: int | None = None, **data: Any) -> Command:
    return Command(id=uuid.uuid4().hex, command=verb, partner="acme", entity=entity, expect=expect, data=data)


def _source(code: str, bridge: str, **more: Any) -> Command:
    return command("source.create", id=f"{code}-id", name=code.title(), code=code, bridge=bridge, **more)


#: Sources by code: `web` (js, any domain), `shop` (js, shop.example), `sub` (js, *.shop.example), `port` (js,
#: localhost:8000), `rest`, `restd` (rest with a domain), `gh` (GitHub; secret `s-1`), `bare` (GitHub, no secret),
#: `kafka`; `off` (switched off), `gone` (removed), `few` (two events a day), `safe` (secret keys:
#: `SECRET`, and one that was revoked), and `now`, which was `before`.
COMMANDS: list[Command] = [
    command("partner.create", id="acme", name="Acme"),
    _source("web", "js"),
    _source("shop", "js", domain="shop.example"),
    _source("sub", "js", domain="*.shop.example"),
    _source("port", "js", domain="localhost:8000"),
    _source("rest", "rest"),
    _source("restd", "rest", domain="shop.example"),
    _source("gh", "webhook-github", secret="s-1"),
    _source("bare", "webhook-github"),
    _source("kafka", "kafka"),
    _source("off", "rest"),
    command("source.edit", "off-id", 1, active=False),
    _source("gone", "rest"),
    command("source.remove", "gone-id", 1),
    _source("few", "rest", policy={"daily": 2}),
    _source("safe", "rest", policy={"key": "secret"}),
    command("source.add_key", "safe-id", 1, id="server-a", name="Server A", hash=digest(SECRET)),
    command("source.add_key", "safe-id", 2, id="server-b", name="Server B", hash=digest("revoked")),
    command("source.revoke_key", "safe-id", 3, id="server-b"),
    _source("before", "rest"),
    command("source.edit", "before-id", 1, code="now"),
]


def state_of(commands: Sequence[Command]) -> ControlState:
    state = ControlState()
    for offset, written in enumerate(commands):
        verdict = state.apply(offset, 1_790_000_000_000, written.to_json())
        assert verdict.status < 300, verdict
    return state


class Recorder:
    """Takes the place of the producer where Kafka is not the subject; ``error`` is what sending raises."""

    def __init__(self) -> None:
        self.records: list[tuple[str, Record]] = []
        self.error: ProduceError | None = None

    def write(self, topic: str, records: Sequence[Record]) -> asyncio.Future[None]:
        if self.error is not None:
            raise self.error
        self.records += [(topic, record) for record in records]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def answers(self, timeout_s: float = 2.0) -> bool:
        return self.error is None


class StandIn:
    """A control log and secrets that hold what they are given."""

    def __init__(self, state: ControlState, secrets: dict[str, str]) -> None:
        self.state = state
        self._secrets = secrets

    def get(self, name: str) -> str:
        return self._secrets[name]
