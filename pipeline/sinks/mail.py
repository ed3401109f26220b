"""SMTP as a transport: a message to a server, over TLS where it is wanted, to an address that may be reached."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any, Literal

import aiosmtplib

from pipeline.guard import BadName, ForbiddenAddress, Guard
from pipeline.sinks.base import SetupError
from pipeline.sinks.http import Answer, NoAnswer

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
        try:
            async with asyncio.timeout(timeout_s):
                return await self._talk(request, timeout_s)
        except TimeoutError:
            raise NoAnswer(f"no complete answer within {timeout_s:g} s") from None
        except ForbiddenAddress as error:
            raise SetupError(str(error.strerror)) from None
        except BadName:
            raise SetupError("the address is none: no host can have this name") from None
        except aiosmtplib.SMTPResponseException as error:
            return Answer(error.code, {}, str(error.message).encode())
        except aiosmtplib.SMTPRecipientsRefused as error:
            refused = error.recipients[0]
            return Answer(refused.code, {}, str(refused.message).encode())
        except aiosmtplib.SMTPNotSupported as error:
            raise SetupError(f"the mail server can't do that: {error}") from None
        except aiosmtplib.SMTPException as error:
            # Of what a server does not offer, the library says so in a sentence alone.
            if "not supported" in str(error):
                raise SetupError(f"the mail server can't do that: {error}") from None
            raise NoAnswer(f"no answer: {type(error).__name__}: {error}") from None
        except OSError as error:
            raise NoAnswer(f"no answer: {type(error).__name__}: {error}") from None

    async def _talk(self, request: Mail, timeout_s: float) -> Answer:
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
            if request.message is None:
                code, text = await client.noop()
                return Answer(code, {}, text.encode())
            _, text = await client.send_message(request.message)
            return Answer(250, {}, text.encode())
        finally:
            client.close()
            dialled.close()
