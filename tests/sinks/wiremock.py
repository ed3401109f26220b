"""WireMock, a receiver that others wrote, as a child process: told what to answer, asked what came."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports import free_port

from pipeline.broker.jars import Jar, cache_dir, fetched
from pipeline.broker.java import find_java

__all__ = ["WireMock", "wiremock"]

_JAR = Jar(
    "org.wiremock",
    "wiremock-standalone",
    "3.13.2",
    19_530_671,
    "d097b19bd483c5038479b13a5c71e9faf8f2f5106584f0c120a7770ab0bdb367",
)
_START_SECONDS = 120.0


@dataclass(frozen=True)
class WireMock:
    """Its address."""

    url: str

    def stub(self, **mapping: Any) -> None:
        """Have it answer so: a mapping as WireMock's admin API takes it."""
        self._ask("POST", "/__admin/mappings", mapping)

    def journal(self) -> list[dict[str, Any]]:
        """What came, the oldest first: each with ``request`` and the ``responseDefinition`` that it got."""
        found: list[dict[str, Any]] = self._ask("GET", "/__admin/requests?limit=100000")["requests"]
        return sorted(found, key=lambda each: each["request"]["loggedDate"])

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}")


@contextmanager
def wiremock(folder: Path) -> Iterator[WireMock]:
    """A server with no mapping, and a journal without end."""
    (jar,) = fetched([_JAR], cache_dir() / "jars", lambda *_: None)
    folder.mkdir(parents=True, exist_ok=True)
    made = WireMock(f"http://127.0.0.1:{free_port()}")
    port = made.url.rpartition(":")[2]
    command = [str(find_java()), "-Xmx256m", "-XX:+UseSerialGC", "-jar", str(jar), "--port", port]
    log = folder / "wiremock.log"
    with log.open("wb") as output:
        options = ["--bind-address", "127.0.0.1", "--disable-banner", "--root-dir", str(folder)]
        process = subprocess.Popen([*command, *options], stdout=output, stderr=output, cwd=folder)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                made._ask("GET", "/__admin/mappings")
                break
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)
        yield made
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
