"""GreenMail, a mail server in Java, as a child process: fetched once as Kafka's jars are, run by the same Java."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ports import free_port

from pipeline.broker.jars import Jar, cache_dir, fetched
from pipeline.broker.java import find_java

__all__ = ["PASSWORD", "USER", "GreenMail", "greenmail"]

_JAR = Jar(
    "com.icegreen",
    "greenmail-standalone",
    "2.1.3",
    9_995_533,
    "9457fdaf45ded6c87bf84a321a5ced4b4b5e72b1d03686b778df381378afc4c8",
)
USER, PASSWORD = "shop", "s3cret pass"
_START_SECONDS = 240.0


@dataclass(frozen=True)
class GreenMail:
    """Its ports: IMAP in clear, IMAP with TLS, SMTP."""

    imap: int
    imaps: int
    smtp: int

    def deliver(self, message: bytes, sender: str = "ann@example.com") -> None:
        """As mail from outside."""
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=20) as server:
            server.sendmail(sender, ["shop@localhost"], message)


@contextmanager
def greenmail(folder: Path) -> Iterator[GreenMail]:
    """A server with one user."""
    (jar,) = fetched([_JAR], cache_dir() / "jars", lambda *_: None)
    made = GreenMail(free_port(), free_port(), free_port())
    ports = [("imap", made.imap), ("imaps", made.imaps), ("smtp", made.smtp)]
    options = [
        option
        for name, port in ports
        for option in (f"-Dgreenmail.{name}.hostname=127.0.0.1", f"-Dgreenmail.{name}.port={port}")
    ]
    command = [
        str(find_java()),
        "-Xmx128m",
        "-Dgreenmail.startup.timeout=200000",
        "-XX:+UseSerialGC",
        *options,
        f"-Dgreenmail.users={USER}:{PASSWORD}@localhost",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "greenmail.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-Dgreenmail.users.login=local_part", "-jar", str(jar)], stdout=output, stderr=output, cwd=folder
        )
    try:
        for _, port in ports:
            _listens(port, process, log)
        yield made
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"GreenMail does not listen on {port}:\n{log.read_text()[-2000:]}")
