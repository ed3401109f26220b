"""Who takes part in the engine benchmark, and how each is started."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rich.console import Console

from pipeline.bench import engine_peers as peers

__all__ = [
    "AIOKAFKA",
    "AT_LEAST_ONCE",
    "BYTEWAX",
    "EXACTLY_ONCE",
    "FAUST",
    "QUIX",
    "STATELESS",
    "STREAMS_AT_LEAST_ONCE",
    "STREAMS_EXACTLY_ONCE",
    "Contender",
]

Command = Callable[[Console], Awaitable[list[str]]]


@dataclass(frozen=True)
class Contender:
    """One way to do the job, as one worker process.

    ``command`` makes its command line, to which the run's JSON is appended; it raises `peers.PeerMissing`.
    ``compacted`` and ``topics``: what it needs beside the output, ``{group}`` and ``{input}`` filled in.
    ``jit``: it gets the long warm-up, and then waits, paused, while others are measured.
    """

    name: str
    title: str
    command: Command
    stateful: bool = True
    exactly_once: bool = False
    compacted: str | None = "{group}-counts-changelog"
    topics: tuple[str, ...] = ()
    jit: bool = False


async def _ours(console: Console) -> list[str]:
    return [sys.executable, "-m", "pipeline.bench.engine_worker"]


def _script(name: str) -> Command:
    return lambda console: peers.script(name, console)


_OURS = ("lanes.{group}", "dead.{group}")
STATELESS = Contender("stateless", "ours, stateless", _ours, False, compacted=None, topics=_OURS)
AT_LEAST_ONCE = Contender("at-least-once", "ours, at least once", _ours, topics=_OURS)
EXACTLY_ONCE = Contender("exactly-once", "ours, exactly once", _ours, exactly_once=True, topics=_OURS)
AIOKAFKA = Contender("aiokafka", "plain aiokafka", _script("plain_aiokafka.py"), False, compacted=None)
FAUST = Contender("faust", "naive Faust, RocksDB table", _script("naive_faust.py"))
QUIX = Contender("quix", "Quix Streams", _script("quix.py"), compacted="changelog__{group}--{input}--default")
BYTEWAX = Contender("bytewax", "Bytewax, snapshots to SQLite", _script("bytewax_flow.py"), compacted=None)
STREAMS_AT_LEAST_ONCE = Contender("streams", "Kafka Streams, at least once", peers.kafka_streams, jit=True)
STREAMS_EXACTLY_ONCE = Contender(
    "streams-eos", "Kafka Streams, exactly_once_v2", peers.kafka_streams, exactly_once=True, jit=True
)
