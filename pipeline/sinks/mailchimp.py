"""Mailchimp: events of the members of an audience, or the members themselves (Marketing API 3.0).

No dedup key for events: what is told twice counts twice. A member is put under the hash of its e-mail: once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Literal

import orjson
from pydantic import Field

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, SetupError, Sink, SinkConfig, iso
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, Template, basic, fill, get, needed, post_json, said, url_of

__all__ = ["MailchimpConfig", "MailchimpSink"]

_KEY = re.compile(r"[0-9a-f]{10,64}-(?P<centre>[a-z]{2}\d{1,3})")


class MailchimpConfig(SinkConfig):
    """``audience``: the list's id. ``mode``: ``events``, or ``members``, which adds or changes who the event is of.
    ``merge``: Mailchimp's merge tag -> text, of a member. ``status``: of a member that is new."""

    address: Address | None = None
    audience: str = Field(pattern=r"^[0-9a-f]{6,20}$")
    mode: Literal["events", "members"] = "events"
    merge: dict[str, Template] = Field(default_factory=dict)
    status: Literal["subscribed", "pending", "transactional", "unsubscribed"] = "transactional"


class MailchimpSink(Sink[MailchimpConfig]):
    """Secret: an API key, which ends with its data centre (``…-us21``)."""

    kind = "mailchimp"
    Config = MailchimpConfig

    def request(self, dispatch: Dispatch, config: MailchimpConfig, secret: str | None, now: Millis) -> Request:
        """POST of an event of a member, or PUT of a member. ValueError for a customer without an e-mail."""
        told = self.told(dispatch, config)
        if told.email is None:
            raise ValueError("Mailchimp knows members by e-mail; the customer has none")
        key = _key(secret)
        member = hashlib.md5(told.email.strip().lower().encode(), usedforsecurity=False).hexdigest()
        url = self._url(config, key, f"/lists/{config.audience}/members/{member}")
        headers = {"authorization": basic("headrace", key)}
        if config.mode == "members":
            merge = {tag: fill(template, dispatch) for tag, template in config.merge.items()}
            body = {"email_address": told.email, "status_if_new": config.status, "merge_fields": merge}
            return post_json(url, body, headers, method="PUT")
        name = re.sub(r"[^a-z0-9_-]+", "_", told.name.lower()).strip("_")[:30]
        if len(name) < 2:
            raise ValueError(f"{told.name!r} makes no event name that Mailchimp takes: 2 to 30 of a-z, 0-9, _ and -")
        properties = {
            re.sub(r"[^A-Za-z0-9_-]+", "_", key): value if isinstance(value, str) else orjson.dumps(value).decode()
            for key, value in told.properties.items()
            if value is not None
        }
        return post_json(
            url + "/events", {"name": name, "properties": properties, "occurred_at": iso(told.time)}, headers
        )

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status; 404 may mean the audience or the one member, which the answer tells apart."""
        found = classify_status(status, headers)
        why = said(body, "detail")
        if status == 404 and "member" in why.lower():
            return Classified("invalid", f"Mailchimp has no such member: {why}")
        return found._replace(detail=f"{found.detail}: {why}") if why and found.outcome != "ok" else found

    def probe(self, config: MailchimpConfig, secret: str | None, now: Millis) -> Request:
        """The audience."""
        key = _key(secret)
        url = self._url(config, key, f"/lists/{config.audience}?fields=id")
        return get(url, {"authorization": basic("headrace", key)})

    def _url(self, config: MailchimpConfig, key: str, path: str) -> str:
        if config.address is not None:
            return url_of(config.address, "/3.0" + path)
        centre = _KEY.fullmatch(key)
        assert centre is not None
        return f"https://{centre['centre']}.api.mailchimp.com/3.0{path}"


def _key(secret: str | None) -> str:
    key = needed(secret, "an API key of Mailchimp's (…-us21)")
    if not _KEY.fullmatch(key):
        raise SetupError("the secret is no API key of Mailchimp's: it ends with its data centre, as -us21")
    return key
