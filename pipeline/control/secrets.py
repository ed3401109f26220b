"""Secrets by reference: values encrypted on a compacted topic, so that they can be rotated and erased.

A record of ``secrets``: the key is the secret's id; the value is a format byte (1), 4 bytes that name the
encryption key, a 12-byte nonce and the AES-256-GCM ciphertext, bound to the id. A tombstone erases.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from aiokafka import AIOKafkaProducer, ConsumerRecord
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.settings import Settings
from pipeline.stream.follower import Follower
from pipeline.stream.kafka import Kafka, disconnect

__all__ = ["MAX_CHARACTERS", "TOPIC", "SecretError", "Secrets", "load_keys"]

TOPIC = "secrets"
#: Of one secret.
MAX_CHARACTERS = 10_000
KEY_FILE = "secret.key"

_FORMAT = b"\x01"
_NONCE = 12
_NAME = 4
_KEY = 32


class SecretError(Exception):
    """A secret, or a key, that cannot be had; the text says why and what to do, never the value."""


class Secrets:
    """Follows the topic ``secrets``; puts, gets and erases values. Use from one event loop.

    ``keys``: 32 bytes each. The first encrypts; the others only read what was encrypted before a rotation.
    """

    def __init__(self, kafka: Kafka, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != _KEY for key in keys):
            raise SecretError(f"a secret key has {_KEY} bytes, and there must be one")
        self._kafka = kafka
        self._ciphers = {_name(key): AESGCM(key) for key in keys}
        self._current = _name(keys[0])
        self._sealed: dict[str, bytes] = {}
        self._erased: set[str] = set()
        self._changed = asyncio.Event()
        self._follower: Follower | None = None
        self._producer: AIOKafkaProducer | None = None
        self._producing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Secrets: {len(self._sealed)}>"

    async def start(self) -> None:
        """Return when everything committed as of this call has been read. Raises TimeoutError as Follower."""
        self._follower = Follower(self._kafka, [TOPIC], self._apply, name=TOPIC)
        await self._follower.start()

    async def stop(self) -> None:
        """Stop following and producing."""
        if self._follower is not None:
            await self._follower.stop()
        if self._producer is not None:
            await disconnect(self._producer)
            self._producer = None

    @property
    def failure(self) -> asyncio.Future[None]:
        """Set with the exception when following has stopped by itself."""
        return self._started().failure

    async def put(self, value: str, kind: str = "s") -> str:
        """Keep ``value`` (1 to `MAX_CHARACTERS` characters); its new id, which begins with ``kind``.

        Raises SecretError, KafkaError.
        """
        if not 0 < len(value) <= MAX_CHARACTERS:
            raise SecretError(f"a secret has 1 to {MAX_CHARACTERS:,} characters")
        name = f"{kind}-{uuid.uuid4().hex}"
        await self._write(name, self._seal(name, value.encode()))
        return name

    def get(self, name: str) -> str:
        """The value of secret ``name``. Raises SecretError when it is unknown, erased or not ours to read."""
        sealed = self._sealed.get(name)
        if sealed is None:
            raise SecretError(f"secret {name} " + ("was erased" if name in self._erased else "is unknown"))
        return self._open(name, sealed).decode()

    def of_kind(self, kind: str) -> list[str]:
        """The ids that were given for ``kind``."""
        return sorted(name for name in self._sealed if name.startswith(f"{kind}-"))

    async def wait(self, name: str, timeout: float = 5) -> str:
        """As `get`, for a secret that may still be on its way: the control log can be ahead of this topic."""
        try:
            async with asyncio.timeout(timeout):
                while name not in self._sealed and name not in self._erased:
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self.get(name)

    async def erase(self, name: str) -> None:
        """Forget the value, here and in every process; compaction then takes it off the disks."""
        await self._write(name, None)

    async def rotate(self) -> int:
        """Encrypt anew, with the first key, what older keys encrypted; how many. Then they can be dropped."""
        old = [name for name, sealed in self._sealed.items() if sealed[1 : 1 + _NAME] != self._current]
        for name in old:
            if name in self._sealed:
                await self._write(name, self._seal(name, self._open(name, self._sealed[name])))
            if name in self._erased:  # by another process meanwhile, and our record came after its tombstone
                await self.erase(name)
        return len(old)

    def _seal(self, name: str, value: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        sealed = self._ciphers[self._current].encrypt(nonce, value, name.encode())
        return _FORMAT + self._current + nonce + sealed

    def _open(self, name: str, sealed: bytes) -> bytes:
        key, body = sealed[1 : 1 + _NAME], sealed[1 + _NAME :]
        cipher = self._ciphers.get(key)
        if sealed[:1] != _FORMAT or cipher is None:
            raise SecretError(
                f"secret {name} was encrypted with another key; give all processes the same HEADRACE_SECRET_KEY"
            )
        try:
            return cipher.decrypt(body[:_NONCE], body[_NONCE:], name.encode())
        except (InvalidTag, ValueError) as error:
            raise SecretError(f"secret {name} was altered on the topic; set it anew") from error

    def _apply(self, records: list[ConsumerRecord]) -> None:
        for record in records:
            name = (record.key or b"").decode(errors="replace")
            if not record.value:
                self._sealed.pop(name, None)
                self._erased.add(name)
            elif name not in self._erased:
                self._sealed[name] = record.value
        self._changed.set()
        self._changed = asyncio.Event()

    def _started(self) -> Follower:
        if self._follower is None:
            raise RuntimeError("secrets are not started; await start() first")
        return self._follower

    async def _write(self, name: str, value: bytes | None) -> None:
        follower = self._started()
        async with self._producing:
            if self._producer is None:
                producer = self._kafka.producer()
                await producer.start()
                self._producer = producer
        done = await self._producer.send_and_wait(TOPIC, value, key=name.encode(), partition=0)
        await follower.wait_for(TOPIC, 0, done.offset)


def load_keys(settings: Settings) -> list[bytes]:
    """The keys of ``HEADRACE_SECRET_KEY`` (base64; comma-separated, newest first), else the local key file.

    The file ``secret.key`` in the data folder is made when missing, readable by its owner only; every process
    of one machine finds the same one. Raises SecretError, saying what is wrong with which.
    """
    if settings.secret_key is not None:
        return [_decode(part, "HEADRACE_SECRET_KEY") for part in settings.secret_key.get_secret_value().split(",")]
    path = settings.data_dir / KEY_FILE
    if not path.exists():
        _create(path)
    if path.stat().st_mode & 0o077:
        raise SecretError(f"{path} can be read by others than its owner; run: chmod 600 {path}")
    return [_decode(path.read_text(), str(path))]


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(base64.b64encode(os.urandom(_KEY)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        # A link is atomic and never replaces: of two processes that start together, one key stands.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _decode(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY:
        raise SecretError(f"{where}: a key is {_KEY} bytes in base64; make one with: openssl rand -base64 {_KEY}")
    return key


def _name(key: bytes) -> bytes:
    return hashlib.sha256(b"headrace secret key" + key).digest()[:_NAME]
