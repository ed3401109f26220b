"""A PostgreSQL of a test's own, on a free port."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from ports import free_port

__all__ = ["postgres_server"]

_USER = "nobody"


def _program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = str(found[-1]) if found else shutil.which(name)
    if path is None:
        pytest.skip("MISSING: PostgreSQL; apt-get install postgresql")
    return path


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """Its address. It runs as nobody where we are root, which it refuses to be."""
    initdb, postgres = _program("initdb"), _program("postgres")
    # A path of its own, that nobody may walk to: pytest's are for their owner alone.
    data, port = Path(f"/tmp/headrace-{os.getpid()}-{os.urandom(4).hex()}"), free_port()
    as_nobody = (
        ["setpriv", f"--reuid={_USER}", "--regid=nogroup", "--clear-groups", "--pdeathsig=TERM"]
        if os.geteuid() == 0
        else []
    )
    log = (folder / "postgres.log").open("wb")
    try:
        made = [*as_nobody, initdb, "-D", str(data), "-U", "headrace", "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(made, check=True, stdout=log, stderr=log, cwd="/")
        options = ["-p", str(port), "-k", str(data), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        server = subprocess.Popen([*as_nobody, postgres, "-D", str(data), *options], stdout=log, stderr=log, cwd="/")
        try:
            address = f"postgresql://headrace@127.0.0.1:{port}/postgres"
            _wait(address, server)
            yield address
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _wait(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            psycopg.connect(address, connect_timeout=1).close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, "PostgreSQL has ended"
            try:
                server.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
    pytest.fail("PostgreSQL does not answer")
