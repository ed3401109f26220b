"""The admin API as the commands ask it."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from typing import Any, NoReturn
from urllib.parse import quote

import httpx
import typer

__all__ = ["Client", "RefusedError", "fail"]

_DEFAULT = "http://127.0.0.1:8081"


class RefusedError(Exception):
    """The API's refusal of a stream; the text says why."""


class Client:
    """One API. Every failure is told in a sentence on standard error, and ends the command with code 1.

    ``address``: as ``--api`` gave it, else ``HEADRACE_API``, else the loopback default. The token comes from
    ``HEADRACE_API_TOKEN``, never from an argument, which other users of the machine could read.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = (address or os.environ.get("HEADRACE_API") or _DEFAULT).rstrip("/")
        headers = {"X-Actor": f"cli:{_user()}"}
        token = os.environ.get("HEADRACE_API_TOKEN")
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx.Client(headers=headers, timeout=90)

    def get(self, *path: str, **query: str) -> Any:
        """The entity or list at ``/v1/<path>``."""
        return self._ask("GET", path, params=query)

    def find(self, *path: str) -> Any:
        """The entity at ``/v1/<path>``, or None where there is none."""
        return self._ask("GET", path, missing=None)

    def add(self, *path: str, body: dict[str, Any], **query: str) -> dict[str, Any]:
        """The entity made."""
        return self._entity("POST", path, json=body, params=query)

    def edit(self, *path: str, body: dict[str, Any], version: int | None = None, **query: str) -> dict[str, Any]:
        """The entity after the change, made on ``version`` (the present one when None)."""
        return self._entity("PATCH", path, json=body, params=query, headers=self._match(path, version))

    def remove(self, *path: str, version: int | None = None) -> dict[str, Any]:
        """The entity as it was removed."""
        return self._entity("DELETE", path, headers=self._match(path, version))

    def answer(self, *path: str, body: dict[str, Any], **query: str) -> bytes:
        """What is answered to a question that is posted, as it came."""
        return self._asked("POST", path, json=body, params=query).content

    def fetch(self, *path: str, **query: str) -> bytes:
        """What is at ``/v1/<path>``, as it came."""
        return self._asked("GET", path, params=query).content

    def take(self, *path: str) -> dict[str, Any]:
        """DELETE of a part that has no version of its own; the answer."""
        return self._entity("DELETE", path)

    def stream(self, *path: str) -> Iterator[tuple[str, Any]]:
        """Server-sent events of ``/v1/<path>``: name and data. Raises RefusedError and httpx's errors."""
        with self._http.stream("GET", self._url(path), timeout=httpx.Timeout(10, read=60)) as answer:
            if not answer.is_success:
                answer.read()
                raise RefusedError(self._refusal(answer.status_code, self._document(answer)))
            event = "message"
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    yield event, json.loads(value)

    def _match(self, path: tuple[str, ...], version: int | None) -> dict[str, str]:
        if version is None:
            version = self.get(*path)["version"]
        return {"If-Match": f'"{version}"'}

    def _entity(self, method: str, path: tuple[str, ...], **kwargs: Any) -> dict[str, Any]:
        entity: dict[str, Any] = self._ask(method, path, **kwargs)
        return entity

    def _ask(self, method: str, path: tuple[str, ...], *, missing: Any = ..., **kwargs: Any) -> Any:
        answer = self._asked(method, path, missing=missing is not ..., **kwargs)
        if answer.status_code == 404 and missing is not ...:
            return missing
        document = self._document(answer)
        if document is None:
            fail(self._refusal(answer.status_code, None))
        return document

    def _asked(self, method: str, path: tuple[str, ...], *, missing: bool = False, **kwargs: Any) -> httpx.Response:
        """An answer that is no refusal; or 404, where something may be ``missing``."""
        try:
            answer = self._http.request(method, self._url(path), **kwargs)
        except httpx.ConnectError:
            fail(
                f"no API answers on {self.address}; start it with `headrace up` or `headrace api`, "
                "or name another address with --api or HEADRACE_API"
            )
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            fail(f"{self.address}: {type(error).__name__}: {error}")
        if not answer.is_success and not (missing and answer.status_code == 404):
            fail(self._refusal(answer.status_code, self._document(answer)))
        return answer

    def _url(self, path: tuple[str, ...]) -> str:
        return "/".join([self.address, "v1", *(quote(part, safe="") for part in path)])

    def _document(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError:
            return None

    def _refusal(self, status: int, document: Any) -> str:
        if not isinstance(document, dict) or "message" not in document:
            return f"{self.address} answered {status}, and not as Headrace's API does; is it one?"
        where = f" (at {document['path']})" if document.get("path") else ""
        return f"{document['message']}{where}"


def fail(message: str) -> NoReturn:
    """Tell it on standard error, and end with code 1."""
    typer.echo(f"headrace: {message}", err=True)
    raise typer.Exit(1)


def _user() -> str:
    try:
        return getpass.getuser().encode("ascii", "replace").decode()[:100]
    except (KeyError, OSError):
        return "unknown"
