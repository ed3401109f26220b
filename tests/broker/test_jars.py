"""Fetching Kafka: only what the list says, whole, and clear words when it cannot be."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.broker import jars
from pipeline.broker.errors import BrokerError

CONTENT = {"one": b"first jar" * 5000, "two": b"second jar" * 7000}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: pytest's output is for results."""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository with two jars, named by the list; the cache is new and empty."""
    root, lines = tmp_path / "repository", ["# two jars"]
    for name, content in CONTENT.items():
        jar = root / "org" / "example" / name / "1.0" / f"{name}-1.0.jar"
        jar.parent.mkdir(parents=True)
        jar.write_bytes(content)
        lines.append(f"org.example:{name}:1.0 {len(content)} {hashlib.sha256(content).hexdigest()}")
    (tmp_path / "jars.lock").write_text("\n".join(lines))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    # requests may be told a proxy by the environment; the server is here.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(jars, "LOCK", tmp_path / "jars.lock")
    monkeypatch.setattr("jgo.constants.MAVEN_CENTRAL_URL", f"http://127.0.0.1:{server.server_port}")
    yield root
    server.shutdown()
    thread.join()
    server.server_close()


def silent(_stage: str, _done: int, _total: int) -> None:
    """Nobody looks."""


def test_jars_are_fetched_once(repository: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    paths = jars.classpath(lambda *report: seen.append(report))
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    total = sum(map(len, CONTENT.values()))
    assert seen[0] == (f"Fetching Apache Kafka {jars.KAFKA_VERSION}", 0, total)
    assert max(done for _, done, _ in seen) == total
    for jar in repository.rglob("*.jar"):
        jar.unlink()
    seen.clear()
    assert jars.classpath(lambda *report: seen.append(report)) == paths
    assert not seen


def test_a_broken_jar_in_the_cache_is_fetched_anew(repository: Path) -> None:
    first, second = jars.classpath(silent)
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(b"x" * len(CONTENT["two"]))
    assert [path.read_bytes() for path in jars.classpath(silent)] == list(CONTENT.values())


def test_a_jar_that_is_not_the_one_is_refused_and_not_kept(repository: Path) -> None:
    jar = next(repository.rglob("two-1.0.jar"))
    jar.write_bytes(b"y" * len(CONTENT["two"]))
    with pytest.raises(BrokerError, match=r"org\.example:two:1\.0 is not the file expected .*SHA-256"):
        jars.classpath(silent)
    jar.write_bytes(CONTENT["two"])
    assert len(jars.classpath(silent)) == 2


def test_a_jar_that_is_not_there(repository: Path) -> None:
    next(repository.rglob("one-1.0.jar")).unlink()
    with pytest.raises(BrokerError, match=r"cannot download org\.example:one:1\.0 .*Check the network"):
        jars.classpath(silent)


def test_no_network(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jgo.constants.MAVEN_CENTRAL_URL", "http://127.0.0.1:1")
    with pytest.raises(BrokerError, match=r"cannot download org\.example:.*refused.*KAFKA_BOOTSTRAP_SERVERS"):
        jars.classpath(silent)


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BrokerError, match="point XDG_CACHE_HOME at a directory"):
        jars.classpath(silent)


def test_the_list_is_whole() -> None:
    listed = jars.locked()
    names = {jar.artifact: jar for jar in listed}
    assert len(names) == len(listed)
    assert {jar.version for jar in listed if jar.artifact.startswith("kafka")} == {jars.KAFKA_VERSION}
    assert {"kafka_2.13", "kafka-tools", "log4j-slf4j-impl"} <= set(names)
    assert all(len(jar.sha256) == 64 and jar.size > 0 for jar in listed)
