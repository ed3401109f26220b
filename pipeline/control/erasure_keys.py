"""The keys that hashes of erased identifiers are made with: secrets, which stay when encryption keys are rotated."""

from __future__ import annotations

import asyncio
import base64
import os

from pipeline.control.secrets import SecretError, Secrets, load_keys
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka

__all__ = ["ErasureKeys", "erasure_key"]

_KIND = "erasure"
_BYTES = 32


async def erasure_key(secrets: Secrets) -> str:
    """The name of the key, made when there is none. Raises SecretError, KafkaError.

    Two processes that make it at the same time make two, and both are good for ever.
    """
    known = secrets.of_kind(_KIND)
    return known[0] if known else await secrets.put(base64.b64encode(os.urandom(_BYTES)).decode(), _KIND)


class ErasureKeys:
    """Keys by their names; `secrets` is followed from the first question on, for most never ask."""

    def __init__(self, kafka: Kafka, settings: Settings) -> None:
        self._kafka = kafka
        self._settings = settings
        self._secrets: Secrets | None = None
        self._lock = asyncio.Lock()

    async def get(self, name: str) -> bytes:
        """The key of that name. Raises OSError when this process can't read it: a lane waits then."""
        try:
            async with self._lock:
                if self._secrets is None:
                    secrets = Secrets(self._kafka, load_keys(self._settings))
                    await secrets.start()
                    self._secrets = secrets
            return base64.b64decode(await self._secrets.wait(name))
        except SecretError as error:
            raise OSError(f"who was erased can't be told: {error}") from error

    async def stop(self) -> None:
        """Follow no more."""
        if self._secrets is not None:
            await self._secrets.stop()
