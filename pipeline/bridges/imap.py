"""A folder of a mailbox: each new message as an event, its attachments by name, type, size and hash.

Read-only unless told otherwise: messages are fetched with BODY.PEEK, so none is marked as seen. IDLE where the server
offers it (RFC 2177), else a look now and then.
"""

from __future__ import annotations

import asyncio
import hashlib
import imaplib
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field

from pipeline.bridges.base import BridgeRequest, Door, Opening, Parcel, Parsed, Refused, SetupFault
from pipeline.bridges.origin import Credentials, Host, Port, Tls, ssl_context
from pipeline.bridges.payload import PayloadBridge, PayloadSettings, event_out, mapped, program_of
from pipeline.guard import BadName
from pipeline.models.base import Millis
from pipeline.models.control import Source

if TYPE_CHECKING:
    from imap_tools import MailMessage

__all__ = ["ImapBridge", "ImapSettings"]

_T = TypeVar("_T")
_TIMEOUT = 30.0
#: A server ends an IDLE after half an hour. Ours ends well before, and a look finds what fell between two.
_IDLE_SECONDS = 300.0
#: Of one transaction: messages, and their bytes.
_MESSAGES, _BYTES = 50, 8 << 20
#: Bounds on what a message may make of an event.
_PEOPLE, _ATTACHMENTS, _TEXT, _LINE = 50, 50, 4000, 1000
_NESTED = 50
_UID = re.compile(rb"\bUID (\d+)")
_SIZE = re.compile(rb"\bRFC822\.SIZE (\d+)")
_TAG = re.compile(r"<[^>]{0,2000}>")


class ImapSettings(PayloadSettings):
    """The mailbox, and what is done with messages that were taken."""

    host: Host
    port: Port | None = Field(None, description="993, or 143 without TLS, when left out")
    security: Literal["tls", "starttls", "none"] = Field("tls", description="none: the password goes over in clear")
    tls: Tls = Field(default_factory=Tls)
    username: Annotated[str, Field(min_length=1, max_length=300)]
    folder: Annotated[str, Field(min_length=1, max_length=300)] = "INBOX"
    start: Literal["new", "all"] = Field("new", description="new: what comes from now on; all: what is there too")
    poll: float = Field(30, ge=1, le=86_400, description="seconds between looks, where the server has no IDLE")
    largest: int = Field(
        10_000_000, ge=10_000, le=50_000_000, description="bytes; of larger messages the headers alone are fetched"
    )
    excerpt: int = Field(1000, ge=0, le=_TEXT, description="characters of the text that the event has")
    seen: bool = Field(False, description="mark messages as seen that were taken")
    move: Annotated[str, Field(min_length=1, max_length=300)] | None = Field(
        None, description="move messages that were taken to this folder"
    )


class ImapBridge(PayloadBridge):
    """Events `Message Received` of who wrote. The id is the mailbox's own: UIDVALIDITY and UID."""

    name = "imap"
    title = "a mailbox: each message of a folder (IMAP)"
    door: Door = "feed"
    channel = "E-mail"
    Settings = ImapSettings

    def parse(self, request: BridgeRequest, source: Source, secrets: Sequence[bytes], now_ms: Millis) -> Parsed:
        """The event of one message; hostile ones included, since anybody can write one. Raises `Refused`."""
        settings = ImapSettings.model_validate(source.settings)
        if request.body.lower().count(b"boundary=") > _NESTED:
            # The parser takes each line through every level; deep ones cost it minutes.
            raise Refused(400, "shape", f"more than {_NESTED} multiparts in a message")
        try:
            properties = _properties(request, settings)
        except RecursionError:
            raise Refused(400, "shape", "the message's parts are nested too deeply") from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Refused(400, "shape", f"the message is no e-mail that can be read: {error!r}"[:500]) from None
        program = program_of(source, ImapSettings)
        if program is not None:
            return Parsed(mapped(properties, request, source, program))
        address = properties.get("from")
        if not address:
            raise Refused(400, "no_identity", "the message does not say who wrote it (From)", "$.from")
        event = {
            "type": "track",
            "event": "Message Received",
            "messageId": request.id,
            "timestamp": properties.pop("received"),
            "traits": {"email": address},
            "properties": properties,
        }
        return Parsed([event_out(event, request.id, source)])

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[_Stream]:
        """Signed in, with the folder selected. Raises as `Feed.open` says."""
        stream = _Stream(opening)
        try:
            await stream.call(stream.connect)
            yield stream
        finally:
            await stream.close()


def _properties(request: BridgeRequest, settings: ImapSettings) -> dict[str, Any]:
    from imap_tools import MailMessage

    message = MailMessage.from_bytes(request.body)
    whole = request.headers["imap-whole"] == "1"
    text = message.text or _TAG.sub(" ", message.html or "")
    sender = message.from_values
    found: dict[str, Any] = {
        "from": _line(sender.email).lower() if sender is not None else None,
        "from_name": _line(sender.name) if sender is not None else None,
        "to": [_line(each.email).lower() for each in message.to_values[:_PEOPLE]],
        "cc": [_line(each.email).lower() for each in message.cc_values[:_PEOPLE]],
        "subject": _line(message.subject),
        "message_id": _line(_header(message, "message-id")),
        "in_reply_to": _line(_header(message, "in-reply-to")),
        "date": _line(message.date_str),
        "received": request.headers["imap-received"],
        "folder": settings.folder,
        "size": int(request.headers["imap-size"]),
        "whole": whole,
    }
    if whole:
        attachments = message.attachments
        found |= {
            "text": " ".join(_clean(text[: 4 * _TEXT]).split())[: settings.excerpt],
            "attachments_count": len(attachments),
            "attachments": [
                {
                    "name": _line(each.filename),
                    "type": _line(each.content_type),
                    "size": len(each.payload),
                    "sha256": hashlib.sha256(each.payload).hexdigest(),
                }
                for each in attachments[:_ATTACHMENTS]
            ],
        }
    return {name: value for name, value in found.items() if value not in (None, "", [])}


def _header(message: MailMessage, name: str) -> str:
    headers: Any = message.headers
    return next(iter(headers.get(name, ())), "")


def _line(text: Any) -> str:
    return " ".join(_clean(str(text or "")[: 4 * _LINE]).split())[:_LINE]


def _clean(text: str) -> str:
    """Text that JSON can hold: half a surrogate pair, as a broken encoding leaves it, is replaced."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


class _Guarded(imaplib.IMAP4):
    """imaplib's client over a connection that was made to a checked address."""

    def __init__(self, made: socket.socket, host: str) -> None:
        self._made = made
        super().__init__(host, timeout=_TIMEOUT)

    def _create_socket(self, timeout: float | None) -> socket.socket:
        return self._made


class _Stream:
    """All calls to the server run in one thread of its own."""

    lag: int | None = None

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._settings: ImapSettings = opening.settings
        known = opening.positions.get("")
        #: {"validity": UIDVALIDITY, "uid": the last one taken}
        self._position: dict[str, int] | None = known if isinstance(known, dict) else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="imap")
        self._box: Any = None
        self._idle_since: float | None = None
        self._can_idle = False
        self._next_look = 0.0
        self._first = True

    async def call(self, work: Callable[[], _T]) -> _T:
        """Run it in the thread; imaplib's errors as OSError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[], _T]) -> _T:
        from imap_tools.errors import ImapToolsError

        try:
            return work()
        except (imaplib.IMAP4.error, ImapToolsError) as error:
            raise OSError(f"{self._settings.host}: {error}"[:500]) from error

    async def close(self) -> None:
        """Sign out, or cut the line where that does not work at once."""

        def leave() -> None:
            if self._box is not None:
                with suppress(Exception):
                    self._box.client.sock.settimeout(3)
                    self._stop_idle()
                    self._box.logout()

        with suppress(TimeoutError, RuntimeError):
            await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(self._thread, leave), 10)
        self._thread.shutdown(wait=False, cancel_futures=True)

    # -- in the thread ---------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Dial, TLS, sign in, select. Raises SetupFault, OSError."""
        from imap_tools import BaseMailBox
        from imap_tools.errors import MailboxFolderSelectError, MailboxLoginError

        settings, credentials = self._settings, Credentials.of(self._opening.secret)
        if credentials.password is None:
            raise SetupFault("the mailbox wants its password as the source's secret")
        port = settings.port or (993 if settings.security == "tls" else 143)
        context = ssl_context(settings.tls, credentials) if settings.security != "none" else None
        try:
            made = self._opening.guard.dial(settings.host, port, _TIMEOUT)
        except BadName:
            raise SetupFault(f"{settings.host} is no name of a host") from None
        try:
            client = self._client(made, context)
        except ssl.SSLCertVerificationError as error:
            made.close()
            raise OSError(f"{settings.host}: its certificate is not trusted: {error.verify_message}") from None
        except BaseException:
            made.close()
            raise

        class Box(BaseMailBox):
            def _get_mailbox_client(self) -> imaplib.IMAP4:
                return client

        self._box = Box()
        try:
            self._box.login_utf8(settings.username, credentials.password, initial_folder=None) if (
                "AUTH=PLAIN" in client.capabilities
            ) else self._box.login(settings.username, credentials.password, initial_folder=None)
        except (MailboxLoginError, imaplib.IMAP4.error):
            raise SetupFault(f"{settings.host} refuses {settings.username}; check it and the secret") from None
        try:
            self._box.folder.set(settings.folder, readonly=not settings.seen and settings.move is None)
        except MailboxFolderSelectError:
            raise SetupFault(f"{settings.host} has no folder {settings.folder}") from None
        client._get_capabilities()
        self._can_idle = "IDLE" in client.capabilities
        self._place()

    def _client(self, made: socket.socket, context: ssl.SSLContext | None) -> imaplib.IMAP4:
        host = self._settings.host
        if self._settings.security == "tls":
            assert context is not None
            made = context.wrap_socket(made, server_hostname=host)
        client = _Guarded(made, host)
        if self._settings.security == "starttls":
            client.starttls(context)
        return client

    def _place(self) -> None:
        """Where to begin: a mailbox that was made anew (UIDVALIDITY) numbers its messages from 1 again."""
        validity = int(self._response("UIDVALIDITY") or 0)
        if self._position is not None and self._position["validity"] == validity:
            return
        last = 0
        if self._position is None and self._settings.start == "new":
            following = self._response("UIDNEXT")
            uids = self._uids(0) if following is None else []
            last = int(following) - 1 if following is not None else max(uids, default=0)
        self._position = {"validity": validity, "uid": last}

    def _response(self, name: str) -> str | None:
        found = self._box.client.response(name)[1]
        return found[-1].decode() if found and found[-1] is not None else None

    def _uids(self, after: int) -> list[int]:
        # `n:*` has the last message in it even where its UID is lower.
        _, found = self._checked(self._box.client.uid("SEARCH", f"UID {after + 1}:*"))
        numbers = [int(number) for part in found if part for number in part.split()]
        return sorted(number for number in numbers if number > after)

    @staticmethod
    def _checked(answer: tuple[str, list[Any]]) -> tuple[str, list[Any]]:
        if answer[0] != "OK":
            raise OSError(f"the mailbox answered {answer[0]} {answer[1]!r:.200}")
        return answer

    def _look(self) -> list[Parcel]:
        assert self._position is not None
        uids = self._uids(self._position["uid"])
        self.lag = max(0, len(uids) - _MESSAGES)
        chosen = uids[:_MESSAGES]
        if not chosen:
            return []
        known = self._sizes(chosen)
        parcels: list[Parcel] = []
        size = 0
        for uid in chosen:
            if uid not in known:
                continue  # gone since
            bytes_, received = known[uid]
            whole = bytes_ <= self._settings.largest
            size += bytes_ if whole else 0
            if parcels and size > _BYTES:
                self.lag = len(uids) - len(parcels)
                break
            body = self._body(uid, whole)
            if body is None:
                continue
            headers = {
                "imap-size": str(bytes_),
                "imap-received": received,
                "imap-whole": "1" if whole else "0",
                "imap-folder": self._settings.folder,
            }
            validity = self._position["validity"]
            parcels.append(Parcel(f"{validity}-{uid}", body, headers, {"validity": validity, "uid": uid}))
        return parcels

    def _sizes(self, uids: Sequence[int]) -> dict[int, tuple[int, str]]:
        """UID -> bytes, and when it arrived."""
        wanted = ",".join(str(uid) for uid in uids)
        _, found = self._checked(self._box.client.uid("FETCH", wanted, "(UID RFC822.SIZE INTERNALDATE)"))
        known: dict[int, tuple[int, str]] = {}
        for line in found:
            if not isinstance(line, bytes):
                continue
            uid, size, moment = _UID.search(line), _SIZE.search(line), imaplib.Internaldate2tuple(line)
            if uid is not None and size is not None:
                when = datetime.fromtimestamp(time.mktime(moment), UTC) if moment is not None else datetime.now(UTC)
                known[int(uid[1])] = (int(size[1]), when.isoformat(timespec="seconds").replace("+00:00", "Z"))
        return known

    def _body(self, uid: int, whole: bool) -> bytes | None:
        part = "BODY.PEEK[]" if whole else "BODY.PEEK[HEADER]"
        _, found = self._checked(self._box.client.uid("FETCH", str(uid), f"(UID {part})"))
        return next((line[1] for line in found if isinstance(line, tuple)), None)

    def _wait(self, timeout: float) -> bool:
        """Whether to look: the server says that something came, or it is time."""
        now = time.monotonic()
        if self._first or not self._can_idle:
            if not self._first and now < self._next_look:
                time.sleep(min(timeout, self._next_look - now))
                return False
            self._first = False
            self._next_look = now + self._settings.poll
            if not self._can_idle:
                self._checked(self._box.client.noop())
            return True
        if self._idle_since is None:
            self._box.idle.start()
            self._idle_since = now
        told = self._box.idle.poll(timeout)
        if not told and now - self._idle_since < _IDLE_SECONDS:
            return False
        self._stop_idle()
        return True

    def _stop_idle(self) -> None:
        if self._idle_since is not None:
            self._idle_since = None
            self._box.idle.stop()

    def _take(self, timeout: float) -> list[Parcel]:
        found = self._look() if self.lag or self._wait(timeout) else []
        if found:
            self._first = True  # more may have come while we looked
        return found

    def _finish(self, uids: Sequence[int]) -> None:
        names = [str(uid) for uid in uids]
        if self._settings.seen:
            self._box.flag(names, "\\Seen", True)
        if self._settings.move is not None:
            self._box.move(names, self._settings.move)

    # -- on the loop -----------------------------------------------------------------------------------------

    async def take(self, timeout: float) -> Sequence[Parcel]:
        """Messages in the order of their UIDs."""
        return await self.call(lambda: self._take(timeout))

    async def done(self, parcels: Sequence[Parcel]) -> None:
        """Go on behind them; mark and move them where that is wanted."""
        uids = [parcel.position["uid"] for parcel in parcels]
        if self._settings.seen or self._settings.move is not None:
            await self.call(lambda: self._finish(uids))
        assert self._position is not None
        self._position = self._position | {"uid": max(uids)}
