"""Clicks and opens, recorded without letting their reader wait: in Kafka soon, else on disk, else counted as lost.

A reader waits 50 ms at the most for the broker. What it has not acknowledged by then is written to a file, and sent
when the broker is back, with the same message id: what arrived twice counts once. Files outlast the process.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import logging
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import orjson

from pipeline.gateway.publish import Producing
from pipeline.stream.producer import ProduceError, Record, RecordRefused

__all__ = ["FATES", "Hits"]

#: Seconds that a reader waits for the broker.
WAIT_S = 0.05
#: Bytes of hits that may lie on disk, a process; about 80,000 of them. More are lost, and counted.
SPOOL_BYTES = 64 << 20
#: What becomes of a hit. ``off``: its source is switched off.
FATES = ("recorded", "spooled", "lost", "off")
_AGAIN_S = 1.0
_CHUNK = 500
_COMPLAIN_S = 10.0

_log = logging.getLogger(__name__)


class Hits:
    """``counts``: hits by their fate since the start; one that was spooled and sent since then is both of these."""

    def __init__(self, producer: Producing, folder: Path, *, limit: int = SPOOL_BYTES, wait_s: float = WAIT_S) -> None:
        self._producer = producer
        self._folder = folder
        self._limit = limit
        self._wait = wait_s
        self.counts: Counter[str] = Counter(dict.fromkeys(FATES, 0))
        self._file: IO[bytes] | None = None
        self._away = False
        self._draining: asyncio.Task[None] | None = None
        self._complained = -_COMPLAIN_S
        self._sends: set[asyncio.Future[None]] = set()
        self.spooled_bytes = sum(path.stat().st_size for path in self._files())

    async def record(self, topic: str, records: Sequence[Record]) -> None:
        """Returns soon, and raises nothing: whoever clicked is led on, whatever happens to the record of it."""
        try:
            if self._away or not await self._sent_soon(topic, records):
                self._keep(topic, records)
        except Exception:
            _log.exception("a hit for %s was not recorded", topic)
            self.counts["lost"] += len(records)

    def resume(self) -> None:
        """Send what an earlier process has left, if there is any. Needs a running loop."""
        if self.spooled_bytes and (self._draining is None or self._draining.done()):
            self._draining = asyncio.create_task(self._drain(), name="links: spool")

    async def _sent_soon(self, topic: str, records: Sequence[Record]) -> bool:
        """Whether the broker acknowledged in time. The attempt goes on without us, and its end is of no interest."""
        sending = asyncio.ensure_future(self._send(topic, records))
        self._sends.add(sending)
        sending.add_done_callback(self._over)
        done, _ = await asyncio.wait({sending}, timeout=self._wait)
        if not done:
            self._away = True
            return False
        error = sending.exception()
        if isinstance(error, RecordRefused):
            raise error
        if error is not None:
            self._away = True
            return False
        self.counts["recorded"] += len(records)
        return True

    def _over(self, sending: asyncio.Future[None]) -> None:
        self._sends.discard(sending)
        if not sending.cancelled():
            sending.exception()

    async def _send(self, topic: str, records: Sequence[Record]) -> None:
        await self._producer.write(topic, records)

    def _keep(self, topic: str, records: Sequence[Record]) -> None:
        lines = b"".join(_line(topic, record) for record in records)
        if self.spooled_bytes + len(lines) > self._limit:
            self.counts["lost"] += len(records)
            self._complain(f"{self._limit} bytes of hits wait on disk for Kafka; the newest are lost")
            return
        if self._file is None:
            self._file = self._open()
        self._file.write(lines)
        self._file.flush()
        self.spooled_bytes += len(lines)
        self.counts["spooled"] += len(records)
        self.resume()

    def _complain(self, what: str) -> None:
        if time.monotonic() - self._complained >= _COMPLAIN_S:
            self._complained = time.monotonic()
            _log.error("%s (%d so far)", what, self.counts["lost"])

    def _open(self) -> IO[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = (self._folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.jsonl").open("ab")
        # Other processes drain what nobody holds: what a process that was killed has left.
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl")) if self._folder.is_dir() else []

    async def _drain(self) -> None:
        """Send the files, oldest first, until there are none; while the broker is away, ask again every second."""
        while True:
            if await self._producer.answers():
                if self._file is not None:
                    self._file.close()
                    self._file = None
                try:
                    for path in self._files():
                        await self._drain_file(path)
                    self._away = False
                except ProduceError as error:
                    _log.info("hits wait on disk: %s", error)
                except OSError:
                    _log.exception("hits on disk can't be read")
            self.spooled_bytes = sum(path.stat().st_size for path in self._files())
            if not self.spooled_bytes:
                return
            await asyncio.sleep(_AGAIN_S)

    async def _drain_file(self, path: Path) -> None:
        """Send all of a file, then remove it. Raises `ProduceError` where the broker does not take it now."""
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process writes it, or sends it
            while lines := file.readlines(_CHUNK * 500):
                by_topic: dict[str, list[Record]] = {}
                for line in lines:
                    try:
                        topic, record = _hit(line)
                    except (ValueError, TypeError, KeyError):
                        self.counts["lost"] += 1
                        self._complain(f"a line of {path.name} is not whole")
                        continue
                    by_topic.setdefault(topic, []).append(record)
                for topic, records in by_topic.items():
                    await self._send_all(topic, records)
            _remove(path)

    async def _send_all(self, topic: str, records: Sequence[Record]) -> None:
        for start in range(0, len(records), _CHUNK):
            chunk = records[start : start + _CHUNK]
            try:
                await self._send(topic, chunk)
                self.counts["recorded"] += len(chunk)
            except RecordRefused as error:
                self.counts["lost"] += len(chunk)
                self._complain(f"Kafka refuses hits for {topic}: {error}")


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _line(topic: str, record: Record) -> bytes:
    """One hit. Base64 in JSON: a line ends where the hit ends, and half a line is none."""
    parts = [base64.b64encode(record.key or b"").decode(), base64.b64encode(record.value or b"").decode()]
    headers = [[name, base64.b64encode(value).decode()] for name, value in record.headers]
    return orjson.dumps({"topic": topic, "record": parts, "headers": headers}) + b"\n"


def _hit(line: bytes) -> tuple[str, Record]:
    found = orjson.loads(line)
    key, value = (base64.b64decode(part, validate=True) for part in found["record"])
    headers = [(str(name), base64.b64decode(text, validate=True)) for name, text in found["headers"]]
    return str(found["topic"]), Record(key, value, headers)
