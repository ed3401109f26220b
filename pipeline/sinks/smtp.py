"""E-mail over SMTP: a message per record. Dedup key: ``Message-ID``, by which mail programs know repeats."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from html import escape
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Sink, SinkConfig, iso
from pipeline.sinks.mail import Mail
from pipeline.sinks.requests import Template, fill
from pipeline.sinks.told import document_of

__all__ = ["SmtpConfig", "SmtpSink"]

#: RFC 5321: credentials wanted, refused or too weak; encryption wanted.
_SETUP = {530, 534, 535, 538}


def _mailbox(text: str) -> str:
    name, address = parseaddr(text)
    _address(name, address)
    return text


def _address(name: str, address: str) -> Address:
    """Raises ValueError for what is no address."""
    user, at, domain = address.rpartition("@")
    if not at or not user or not domain or not address.isascii() or any(c.isspace() or ord(c) < 33 for c in address):
        raise ValueError(f"{address!r:.80} is no e-mail address")
    return Address(name, addr_spec=address)


Mailbox = Annotated[str, Field(max_length=400), AfterValidator(_mailbox)]


class SmtpConfig(SinkConfig):
    """``tls``: ``starttls`` (587), ``tls`` (465), or ``none``. ``from``: ``Shop <shop@shop.example>``."""

    host: str = Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")
    port: int = Field(587, ge=1, le=65_535)
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = Field(None, max_length=320)
    from_: Mailbox = Field(alias="from")
    reply_to: Mailbox | None = None
    subject: Template = Field(min_length=1)
    text: Template | None = None
    html: Template | None = None
    max_in_flight: int = Field(8, ge=1, le=1000)

    @model_validator(mode="after")
    def _something(self) -> SmtpConfig:
        if self.text is None and self.html is None:
            raise ValueError("say what to send: `text`, `html`, or both")
        if self.user is not None and self.tls == "none":
            raise ValueError("a password is not sent in clear: `tls` is `starttls` or `tls` where there is a `user`")
        return self


class SmtpSink(Sink[SmtpConfig]):
    """Secret: the user's password, where there is a user."""

    kind = "smtp"
    Config = SmtpConfig

    def request(self, dispatch: Dispatch, config: SmtpConfig, secret: str | None, now: Millis) -> Mail:
        """The message to the customer's e-mail. ValueError where there is none, or a template makes no subject."""
        told = self.told(dispatch, config)
        if told.email is None:
            raise ValueError("the customer has no e-mail")
        message = EmailMessage()
        sender = _address(*parseaddr(config.from_))
        message["From"] = sender
        name = " ".join(f"{told.first_name or ''} {told.last_name or ''}".split())
        message["To"] = _address(name, told.email)
        if config.reply_to is not None:
            message["Reply-To"] = _address(*parseaddr(config.reply_to))
        # Line breaks would make headers of what customers wrote.
        subject = " ".join(fill(config.subject, dispatch).split())
        if not subject:
            raise ValueError("the template makes no subject of it")
        message["Subject"] = ("[Test] " if dispatch.test else "") + subject
        message["Message-ID"] = f"<{told.id}@{sender.domain}>"
        message["Date"] = format_datetime(_moment(dispatch.created))
        if config.text is not None:
            message.set_content(fill(config.text, dispatch))
            if config.html is not None:
                message.add_alternative(fill(config.html, _escaped(dispatch)), subtype="html")
        else:
            message.set_content(fill(config.html or "", _escaped(dispatch)), subtype="html")
        return Mail(config.host, config.port, config.tls, config.user, secret, message)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By SMTP's code: 2xx ok; 421 and 45x later; credentials the set-up; other 5xx never."""
        detail = f"the mail server says {status}: {body.decode(errors='replace')[:300]}"
        if 200 <= status < 300:
            return Classified("ok")
        if status in _SETUP:
            return Classified("setup", detail)
        return Classified("transient" if status < 500 else "invalid", detail)

    def probe(self, config: SmtpConfig, secret: str | None, now: Millis) -> Mail:
        """Connect, and log in where there is a user."""
        return Mail(config.host, config.port, config.tls, config.user, secret, None)


def _moment(ms: Millis) -> datetime:
    return datetime.fromisoformat(iso(ms))


def _escaped(dispatch: Dispatch) -> Dispatch:
    """As HTML has it, so that what customers wrote is text."""
    found = document_of(dispatch)
    changes = {name: _escape(found[name]) for name in ("event", "customer", "name")}
    return dispatch.model_copy(update=changes)


def _escape(value: object) -> object:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {key: _escape(inner) for key, inner in value.items()}
    return [_escape(inner) for inner in value] if isinstance(value, list) else value
