"""A running Headrace, as the tests of the whole path see it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.stream.kafka import Kafka

__all__ = ["Stack"]


@dataclass(frozen=True)
class Stack:
    """Addresses of the doors, and the process that supervises all others."""

    kafka: str
    gateway: str
    api: str
    pid: int
    data: Path

    def client(self) -> Kafka:
        """Its Kafka."""
        return Kafka(self.kafka)

    def process(self, *words: str) -> psutil.Process:
        """The process whose command line ends with these words, e.g. ``worker --roles fanout``.

        Raises LookupError while there is none (one that was killed is started again).
        """
        for process in psutil.Process(self.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if tuple(process.cmdline()[-len(words) :]) == words:
                    return process
        raise LookupError(f"no process {' '.join(words)}")
