"""What ends a process that hangs: the loop's own watchdog cannot, so a thread does."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time

__all__ = ["EXIT_CODE", "LoopWatchdog", "StalledError"]

log = logging.getLogger(__name__)

#: EX_SOFTWARE of sysexits.h.
EXIT_CODE = 70


class StalledError(Exception):
    """Input waits and nothing moves."""


class LoopWatchdog:
    """Ends the process with `EXIT_CODE`, and with every thread's stack on stderr, when the loop gives no `beat` for
    ``seconds``: code that never returns to the loop holds its lanes, and Faust's heartbeats, in their own thread, would
    keep them for it.
    """

    def __init__(self, seconds: float, name: str) -> None:
        self._seconds = seconds
        self._name = name
        self._beaten = time.monotonic()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to watch."""
        self.beat()
        threading.Thread(target=self._watch, name=f"{self._name} watchdog", daemon=True).start()

    def beat(self) -> None:
        """Say that the loop turns."""
        self._beaten = time.monotonic()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(min(1.0, self._seconds / 4)):
            now = time.monotonic()
            if now - last > self._seconds / 2:
                self.beat()  # the whole process slept (SIGSTOP, a paused machine): that is not the loop's fault
            last = now
            if now - self._beaten > self._seconds:
                log.critical("ALERT stalled: %s: the loop has not turned for %g s", self._name, self._seconds)
                faulthandler.dump_traceback(sys.stderr)
                os._exit(EXIT_CODE)
