"""Child processes that stop together: started, watched, restarted, ended by SIGTERM, never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence

__all__ = ["Supervisor"]

log = logging.getLogger(__name__)
#: A process that ends this often within a minute has a fault that restarting does not mend.
_MOST_RESTARTS = 5
_PR_SET_PDEATHSIG = 1


def _die_with_parent(parent: int) -> Callable[[], None]:
    """For ``preexec_fn``: SIGTERM when the parent goes, however it goes (Linux)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None

    def arrange() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)

    return arrange


class _Child:
    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self.arguments = list(arguments)
        self.process: asyncio.subprocess.Process | None = None
        self.starts: list[float] = []
        self.task: asyncio.Task[None] | None = None


class Supervisor:
    """Runs named commands until `stop`. Each is in a process group of its own, so a Ctrl-C reaches only us."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**os.environ, **environment}
        self._children: dict[str, _Child] = {}
        self._stopping = False
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start ``arguments`` as the child ``name`` and keep it running."""
        child = self._children[name] = _Child(name, arguments)
        await self._spawn(child)
        child.task = asyncio.create_task(self._watch(child), name=f"watch {name}")

    def pid(self, name: str) -> int:
        """The process id that the child has now. Raises KeyError for an unknown name."""
        process = self._children[name].process
        assert process is not None
        return process.pid

    async def stop(self, timeout: float = 30.0) -> None:
        """SIGTERM to all, newest first; SIGKILL to what is still there after ``timeout`` seconds."""
        self._stopping = True
        for child in reversed(self._children.values()):
            await self._end(child, timeout)
        if self.failure.done() and not self.failure.cancelled():
            self.failure.exception()

    async def _end(self, child: _Child, timeout: float) -> None:
        process = child.process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), timeout)
            except TimeoutError:
                log.warning("%s did not stop within %g s; killed", child.name, timeout)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if child.task is not None:
            child.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await child.task

    async def _spawn(self, child: _Child) -> None:
        child.starts.append(time.monotonic())
        child.process = await asyncio.create_subprocess_exec(
            *child.arguments,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent(os.getpid()),
        )

    async def _watch(self, child: _Child) -> None:
        while True:
            assert child.process is not None
            code = await child.process.wait()
            if self._stopping:
                return
            recent = [start for start in child.starts if start > time.monotonic() - 60]
            if len(recent) >= _MOST_RESTARTS:
                message = f"{child.name} ended {len(recent)} times within a minute (last with code {code}); giving up"
                if not self.failure.done():
                    self.failure.set_exception(RuntimeError(message))
                return
            log.warning("%s ended with code %s; starting it again", child.name, code)
            await asyncio.sleep(0.2 * len(recent))
            await self._spawn(child)
