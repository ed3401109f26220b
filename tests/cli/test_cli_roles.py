"""Roles whose Kafka is away: they wait for it, say so, and stop when told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest


@pytest.mark.parametrize("role", ["worker", "sink", "bridge", "lake"])
def test_a_role_waits_for_a_broker_that_is_away_and_stops_in_order_when_told(role: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, never listened on: whoever connects is refused
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.main", role],
            env=os.environ
            | {
                "KAFKA_BOOTSTRAP_SERVERS": address,
                "HEADRACE_SECRET_KEY": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            said = next(line for line in process.stderr if "pipeline.cli" in line)
            assert f"no broker answers at {address} yet" in said
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.communicate()
