"""Fixtures of all rooms: a Kafka, names that collide with nobody's, Chromium."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from shared_broker import shared_kafka
from xdist.scheduler import LoadScopeScheduling

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.stream.kafka import Kafka

# A deadline an example is the machine's load, not the code's.
hypothesis.settings.register_profile("headrace", deadline=None)
hypothesis.settings.load_profile("headrace")


class _OneProduct(LoadScopeScheduling):  # type: ignore[misc]
    """Files of tests to the processes of `pytest -n`; those of a running product, which takes a core, all to one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/path" if file.startswith("tests/path/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """By `_OneProduct`. (Of `--dist loadgroup` pytest 9 takes no notice.)"""
    return _OneProduct(config, log)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Kafka]:
    """A real Kafka, shared by the whole session (see shared_broker); name topics with ``prefix``."""
    root = tmp_path_factory.getbasetemp()
    with shared_kafka(root if worker_id == "master" else root.parent) as found:
        yield found


@pytest.fixture
def prefix() -> str:
    """A name no other test has, fit for topics, groups and ids: ``t`` and 12 hex digits."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def broker_factory(tmp_path: Path) -> Iterator[Callable[..., EmbeddedBroker]]:
    """Makes brokers of a test's own, not yet started: ``broker_factory(data_dir=..., **EmbeddedBroker's)``.

    All are stopped when the test ends. Two with one ``data_dir`` are one broker, restarted.
    """
    with ExitStack() as stack:

        def make(data_dir: Path | None = None, **kwargs: Any) -> EmbeddedBroker:
            broker = EmbeddedBroker(data_dir or tmp_path / "kafka", **kwargs)
            stack.callback(broker.stop)
            return broker

        yield make


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Debian's Chromium."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("MISSING: Chromium; install it: apt-get install chromium")
    return path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    return _required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Any:
    return _required((yield))


def _required(report: Any) -> Any:
    """With ``HEADRACE_REQUIRE_ALL=1`` a test skipped for want of a system package is a failure."""
    if os.environ.get("HEADRACE_REQUIRE_ALL") == "1" and report.skipped and "MISSING:" in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"HEADRACE_REQUIRE_ALL=1: {report.longrepr[-1]}"
    return report
