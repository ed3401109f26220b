"""A standby: a copy of another member's store that is kept up to date, so that a fail-over finds it warm."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from aiokafka.errors import KafkaError

from pipeline.stream.config import LaneConfig
from pipeline.stream.restore import Changelogs
from pipeline.stream.store import Store, StoreError

__all__ = ["Standby"]

log = logging.getLogger(__name__)
_RETRY_SECONDS = 1.0
_WAIT_SECONDS = 1.0


class Standby:
    """Follows the changelogs of lane ``number`` until it is stopped. ``behind``: offsets not read at the last look."""

    def __init__(self, config: LaneConfig, number: int, store: Store | None = None) -> None:
        self.number = number
        self.behind = -1
        self._config = config
        self._store = store
        self._task = asyncio.create_task(self._run(), name=f"standby {config.role} {number}")

    async def stop(self) -> Store | None:
        """End; the open store, for the lane that goes on with it."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        store, self._store = self._store, None
        return store

    async def _run(self) -> None:
        config = self._config
        while True:
            try:
                if self._store is None:
                    assert config.store_dir is not None
                    self._store = await Store.open(config.store_dir / f"{self.number}", config.tables)
                await self._follow(self._store)
            except StoreError as error:
                log.error("standby %s %d: %s", config.role, self.number, error)
                if self._store is not None:
                    await self._store.abandon(error)
                    self._store = None
                await asyncio.sleep(_RETRY_SECONDS)
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("standby %s %d: %r; starting again", config.role, self.number, error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self, store: Store) -> None:
        changelogs = Changelogs(self._config.kafka, store, self.number, role=self._config.role)
        try:
            await changelogs.start()
            while True:
                await changelogs.step(_WAIT_SECONDS)
                self.behind = changelogs.left()
                if not self.behind:
                    await changelogs.find_ends()
                    self.behind = changelogs.left()
        finally:
            await changelogs.stop()
