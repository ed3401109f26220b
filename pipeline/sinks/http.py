"""Sending a request to a tool: one attempt, bounded in time and bytes, nothing followed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver

from pipeline.sinks.base import Request, SetupError
from pipeline.sinks.guard import BadName, ForbiddenAddress, Guard, GuardedResolver

__all__ = ["MAX_ANSWER", "Answer", "HttpClient", "NoAnswer", "reaching"]

#: Bytes read of an answer; the connection is closed on the rest.
MAX_ANSWER = 64 * 1024
_CONNECT_SECONDS = 5.0


class NoAnswer(Exception):
    """Nothing came back that could be read, and why. ``sent``: it may have arrived all the same."""

    def __init__(self, why: str, *, sent: bool = True) -> None:
        super().__init__(why)
        self.sent = sent


@contextmanager
def reaching(timeout_s: float, *, sent: bool = True) -> Iterator[None]:
    """What keeps a transport from an answer: SetupError for an address that is none or may not be reached, NoAnswer for
    a time-out of ``timeout_s`` and for every other OSError. ``sent``: as NoAnswer has it."""
    try:
        yield
    except TimeoutError:
        raise NoAnswer(f"no complete answer within {timeout_s:g} s", sent=sent) from None
    except ForbiddenAddress as error:
        raise SetupError(str(error.strerror)) from None
    except BadName:
        raise SetupError("the address is none: no host can have this name") from None
    except OSError as error:
        raise NoAnswer(f"no answer: {type(error).__name__}: {error}", sent=sent) from None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. ``headers``: names in lower case; ``body``: at most `MAX_ANSWER` bytes of it."""

    status: int
    headers: dict[str, str]
    body: bytes


class HttpClient:
    """The engine's HTTP client. ``resolver``: what names are looked up with, the system's by default."""

    def __init__(self, guard: Guard, resolver: AbstractResolver | None = None) -> None:
        self._guard = guard
        self._inner = resolver
        self._resolver: GuardedResolver | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the session; connections are made as they are needed."""
        self._resolver = GuardedResolver(self._guard, self._inner)
        connector = aiohttp.TCPConnector(
            resolver=self._resolver, socket_factory=self._guard.socket, limit=0, keepalive_timeout=15
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            # A compressed answer is kept as it is: nobody needs it, and it may be a bomb.
            auto_decompress=False,
            trust_env=False,
        )

    async def stop(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
        if self._resolver is not None:
            await self._resolver.close()

    async def send(self, request: Request, timeout_s: float) -> Answer:
        """One attempt, the answer included, within ``timeout_s`` seconds.

        Raises NoAnswer, and SetupError for an address that is none or may not be reached.
        """
        assert self._session is not None, "start the client first"
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_SECONDS)
        try:
            async with self._session.request(
                request.method,
                request.url,
                data=request.body,
                headers=dict(request.headers) | {"accept-encoding": "identity"},
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                body = bytearray()
                while len(body) < MAX_ANSWER and (chunk := await response.content.read(MAX_ANSWER - len(body))):
                    body += chunk
                if not response.content.at_eof():
                    response.close()
                headers = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, headers, bytes(body))
        except aiohttp.ConnectionTimeoutError:
            # Its own text has the whole address in it, which is a credential of Slack's.
            raise NoAnswer("no connection in time", sent=False) from None
        except TimeoutError:
            raise NoAnswer(f"no complete answer within {timeout_s:g} s") from None
        except (aiohttp.InvalidURL, BadName):
            raise SetupError("the address is none: no host can have this name") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, ForbiddenAddress):
                raise SetupError(str(error.os_error.strerror)) from None
            raise NoAnswer(f"no connection: {error}", sent=False) from None
        except aiohttp.ClientResponseError as error:
            # Its own text has the whole request in it, credentials included.
            raise NoAnswer(f"no answer that is HTTP: {error.message}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswer(f"no answer: {type(error).__name__}: {error}") from None
