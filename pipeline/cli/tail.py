"""The API's live view of a source as the commands read it."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import httpx

from pipeline.cli.client import Client, RefusedError, fail

__all__ = ["Tail"]

_START_SECONDS = 30.0


class Tail:
    """Iterate over sightings; it ends after ``seconds``, or when the server says so (`end` has its words).

    Entered, it has been told that all that comes from now on is seen. Every failure to begin ends the command.
    """

    def __init__(self, client: Client, partner: str, source: str, seconds: float | None = None) -> None:
        self.end: str | None = None
        self._client, self._path = client, ("partners", partner, "sources", source, "live")
        self._seconds = seconds
        self._deadline: float | None = None
        self._heard: queue.Queue[tuple[str, Any]] = queue.Queue(10_000)
        self._closed = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            event, data = self._heard.get(timeout=_START_SECONDS)
        except queue.Empty:
            fail(f"{self._client.address} did not begin to show the source within {_START_SECONDS:g} s")
        if event != "watching":
            fail(str(data))
        if self._seconds is not None:
            self._deadline = time.monotonic() + self._seconds
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The thread ends with the process, or when the server next says something.
        self._closed = True

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (found := self.next()) is not None:
            yield found

    def next(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next sighting; None when there is none in time, or none any more."""
        limits = [self._deadline] if self._deadline is not None else []
        if timeout is not None:
            limits.append(time.monotonic() + timeout)
        while self.end is None:
            left = min(limits) - time.monotonic() if limits else 3600.0
            if left <= 0:
                return None
            try:
                event, data = self._heard.get(timeout=left)
            except queue.Empty:
                continue
            if event == "end":
                self.end = str(data)
            else:
                found: dict[str, Any] = data
                return found
        return None

    def _listen(self) -> None:
        try:
            for event, data in self._client.stream(*self._path):
                if self._closed:
                    return
                self._heard.put((event, data["message"] if event == "end" else data))
            self._heard.put(("end", "the API ended the view; is it still running?"))
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, json.JSONDecodeError) as error:
            self._heard.put(("end", f"{self._client.address}: {type(error).__name__}: {error}"))
        except RefusedError as error:
            self._heard.put(("end", str(error)))
