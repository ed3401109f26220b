"""Brokers that others wrote, as child processes of the tests: mosquitto, RabbitMQ, a Kafka with TLS, on free ports."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ports import free_port

from pipeline.broker.embedded import EmbeddedBroker

__all__ = ["Authority", "KafkaTls", "Mosquitto", "rabbitmq"]

_START_SECONDS = 240.0


def _listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"it does not listen on {port}:\n{log.read_text(errors='replace')[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Authority:
    """A certificate authority of a test's own, and what it signed: PEM."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's own authority")])
        self._made = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(True, None))
        self.pem = self._made.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, name: str) -> tuple[str, str]:
        """A certificate for a host name (or a client) and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        made = self._sign(subject, key.public_key(), names)
        return made.public_bytes(serialization.Encoding.PEM).decode(), key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )


@dataclass
class Mosquitto:
    """A broker with sessions that outlive it. With an authority: TLS, and who connects needs a certificate of it."""

    folder: Path
    authority: Authority | None = None

    def __post_init__(self) -> None:
        if shutil.which("mosquitto", path=_PATH) is None:
            pytest.skip("MISSING: mosquitto; install it: apt-get install mosquitto")
        self.port = free_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {self.folder}/",
            "max_queued_messages 100000",
            "max_inflight_messages 1000",
            "user root",
        ]
        if self.authority is not None:
            certificate, key = self.authority.issue("localhost")
            (self.folder / "ca.pem").write_text(self.authority.pem)
            (self.folder / "server.pem").write_text(certificate)
            (self.folder / "server.key").write_text(key)
            lines += [
                f"cafile {self.folder}/ca.pem",
                f"certfile {self.folder}/server.pem",
                f"keyfile {self.folder}/server.key",
                "require_certificate true",
            ]
        (self.folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, or start again with the sessions that it had."""
        log = self.folder / "mosquitto.log"
        command = [shutil.which("mosquitto", path=_PATH) or "", "-c", str(self.folder / "mosquitto.conf")]
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        _listens(self.port, self._process, log)

    def stop(self) -> None:
        """SIGTERM; it writes its sessions."""
        if self._process is not None:
            _end(self._process)
            self._process = None


@contextmanager
def rabbitmq(folder: Path, authority: Authority | None = None) -> Iterator[int]:
    """A RabbitMQ with a node name, cookie and port mapper of its own; its AMQP port.

    With an authority: TLS, as ``localhost``, and who connects needs a certificate of it.
    """
    servers = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    epmd = shutil.which("epmd")
    if not servers or epmd is None:
        pytest.skip("MISSING: RabbitMQ; install it: apt-get install rabbitmq-server")
    folder.mkdir(parents=True, exist_ok=True)
    port, dist, mapper = free_port(), free_port(), free_port()
    configuration = folder / "rabbitmq.conf"
    lines = [f"listeners.tcp.1 = 127.0.0.1:{port}", "log.console = true", "log.console.level = warning"]
    if authority is not None:
        certificate, key = authority.issue("localhost")
        for name, text in (("ca", authority.pem), ("server", certificate), ("key", key)):
            (folder / f"{name}.pem").write_text(text)
        lines[0] = f"listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{port}"
        lines += [
            f"ssl_options.cacertfile = {folder}/ca.pem",
            f"ssl_options.certfile = {folder}/server.pem",
            f"ssl_options.keyfile = {folder}/key.pem",
            "ssl_options.verify = verify_peer",
            "ssl_options.fail_if_no_peer_cert = true",
        ]
    configuration.write_text("\n".join(lines) + "\n")
    environment = {
        **os.environ,
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"t{port}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(dist),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_CONFIG_FILE": str(configuration),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
    }
    log = folder / "rabbitmq.log"
    with log.open("wb") as output:
        names = subprocess.Popen([epmd, "-port", str(mapper), "-address", "127.0.0.1"], stdout=output, stderr=output)
        process = subprocess.Popen([str(servers[-1])], env=environment, stdout=output, stderr=output, cwd=folder)
    try:
        _listens(port, process, log)
        yield port
    finally:
        _end(process)
        _end(names)


class KafkaTls(EmbeddedBroker):
    """The embedded broker with a listener at ``localhost:tls_port``: TLS, and who connects needs a certificate of
    ``authority``."""

    def __init__(self, data_dir: Path, authority: Authority) -> None:
        super().__init__(data_dir)
        self.tls_port = free_port()
        self._authority = authority

    def _configure(self, controller_port: int) -> None:
        super()._configure(controller_port)
        certificate, key = self._authority.issue("localhost")
        (self.data_dir / "ca.pem").write_text(self._authority.pem)
        (self.data_dir / "server.pem").write_text(key + certificate)
        listeners = f"PLAINTEXT://127.0.0.1:{self.port},SSL://localhost:{self.tls_port}"
        settings = {
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SSL:SSL,CONTROLLER:PLAINTEXT",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.data_dir / "server.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.data_dir / "ca.pem",
            "ssl.client.auth": "required",
        }
        with (self.data_dir / "server.properties").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())


#: Debian keeps servers where a user's path does not lead.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
