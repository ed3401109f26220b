"""SMTP as a transport: a message to a server, over TLS where it is wanted, to an address that may be reached."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any, Literal

import aiosmtplib

from pipeline.guard import Guard
from pipeline.sinks.base import SetupError
from pipeline.sinks.http import Answer, NoAnswer, reaching

__all__ = ["Mail", "MailTransport"]

_TEXT_CHARACTERS = 10_000
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Mail:
    """A message to be handed to a server; without one, the server is only asked whether it lets us in."""

    host: str
    port: int
    tls: Literal["starttls", "tls", "none"]
    user: str | None
    password: str | None
    message: EmailMessage | None

    def shown(self) -> dict[str, Any]:
        """As the delivery log may have it: the message, and no password."""
        text = "" if self.message is None else self.message.as_string()[:_TEXT_CHARACTERS]
        return {"server": f"{self.host}:{self.port}", "tls": self.tls, "user": self.user, "body": text}


class MailTransport:
    """A connection a message: what servers allow in one is theirs to say, and few say it."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    async def send(self, request: Mail, timeout_s: float) -> Answer:
        """Raises NoAnswer; SetupError for what may not be reached, or is not the server it says it is."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            with _failures(timeout_s, sent=False):
                async with asyncio.timeout_at(deadline):
                    client = await self._connected(request, timeout_s)
            try:
                with _failures(timeout_s, sent=True):
                    async with asyncio.timeout_at(deadline):
                        return await _hand_over(client, request.message)
            finally:
                client.close()
        except aiosmtplib.SMTPResponseException as error:
            return Answer(error.code, {}, str(error.message).encode())
        except aiosmtplib.SMTPRecipientsRefused as error:
            refused = error.recipients[0]
            return Answer(refused.code, {}, str(refused.message).encode())

    async def _connected(self, request: Mail, timeout_s: float) -> aiosmtplib.SMTP:
        dialled: socket.socket = await asyncio.to_thread(
            self._guard.dial, request.host, request.port, min(timeout_s, _CONNECT_SECONDS)
        )
        dialled.setblocking(False)
        # The name is for the certificate; where to, the socket says.
        client = aiosmtplib.SMTP(
            hostname=request.host,
            sock=dialled,
            use_tls=request.tls == "tls",
            start_tls=request.tls == "starttls",
            username=request.user,
            password=request.password if request.user is not None else None,
            timeout=timeout_s,
        )
        try:
            await client.connect()
        except BaseException:
            # Before the socket, which may have a transport by then.
            client.close()
            dialled.close()
            raise
        return client


async def _hand_over(client: aiosmtplib.SMTP, message: EmailMessage | None) -> Answer:
    if message is None:
        code, text = await client.noop()
        return Answer(code, {}, text.encode())
    _, text = await client.send_message(message)
    return Answer(250, {}, text.encode())


@contextmanager
def _failures(timeout_s: float, *, sent: bool) -> Iterator[None]:
    """What goes wrong, but for what the server answers, as NoAnswer or SetupError. ``sent``: as NoAnswer has it."""
    with reaching(timeout_s, sent=sent):
        try:
            yield
        except (aiosmtplib.SMTPResponseException, aiosmtplib.SMTPRecipientsRefused, TimeoutError):
            raise
        except aiosmtplib.SMTPException as error:
            # Of what a server does not offer, the library may say so in a sentence alone.
            if isinstance(error, aiosmtplib.SMTPNotSupported) or "not supported" in str(error):
                raise SetupError(f"the mail server can't do that: {error}") from None
            raise NoAnswer(f"no answer: {type(error).__name__}: {error}", sent=sent) from None
