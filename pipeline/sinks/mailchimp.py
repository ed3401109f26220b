"""Mailchimp: events of the members of an audience, or the members themselves (Marketing API 3.0).

No dedup key for events: what is told twice counts twice. A member is put under the hash of its e-mail: once. What is
replayed is told with ``is_syncing``, which sets off no automation.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Literal

import orjson
from pydantic import Field

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, SetupError, Sink, SinkConfig, iso
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, Template, basic, fill, get, needed, post_json, url_of

__all__ = ["MailchimpConfig", "MailchimpSink"]

_KEY = re.compile(r"[0-9a-f]{10,64}-[a-z]{2}[0-9]{1,3}")
_MAX_NAME = 30


class MailchimpConfig(SinkConfig):
    """``audience``: the list's id. ``mode``: ``events``, or ``members``, which adds or changes who the event is of.
    ``merge``: Mailchimp's merge tag -> text, of a member. ``status``: of a member that is new. ``address``: in place of
    the one that the key names. ``max_in_flight``: Mailchimp takes 10 at one time of an account, all processes
    together."""

    address: Address | None = None
    max_in_flight: int = Field(10, ge=1, le=10)
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
        key, email = _key(secret), told.email.strip()
        member = hashlib.md5(email.lower().encode(), usedforsecurity=False).hexdigest()
        url = self._url(config, key, f"/lists/{config.audience}/members/{member}")
        headers = {"authorization": basic("headrace", key)}
        if config.mode == "members":
            merge = {tag: fill(template, dispatch) for tag, template in config.merge.items()}
            member_body = {"email_address": email, "status_if_new": config.status, "merge_fields": merge}
            return post_json(url, member_body, headers, method="PUT")
        body: dict[str, Any] = {
            "name": _name(told.name),
            "properties": _properties(told.properties),
            "occurred_at": iso(told.time),
        }
        if told.replayed:
            body["is_syncing"] = True
        return post_json(f"{url}/events", body, headers)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status, but for 404: Mailchimp says the same of a member and of an audience that there is not.

        So 404 is of this record: who is no member must not hold up those who are. `probe` asks for the audience alone.
        """
        found = classify_status(status, headers)
        if status == 404:
            found = Classified("invalid", "404: the audience has no such member, or there is no such audience")
        return found.saying(_why(body))

    def probe(self, config: MailchimpConfig, secret: str | None, now: Millis) -> Request:
        """The audience."""
        key = _key(secret)
        url = self._url(config, key, f"/lists/{config.audience}?fields=id")
        return get(url, {"authorization": basic("headrace", key)})

    def _url(self, config: MailchimpConfig, key: str, path: str) -> str:
        if config.address is not None:
            return url_of(config.address, "/3.0" + path)
        return f"https://{key.rpartition('-')[2]}.api.mailchimp.com/3.0{path}"


def _key(secret: str | None) -> str:
    key = needed(secret, "an API key of Mailchimp's (…-us21)")
    if not _KEY.fullmatch(key):
        raise SetupError("the secret is no API key of Mailchimp's: it ends with its data centre, as -us21")
    return key


def _name(name: str) -> str:
    """The event's name as Mailchimp takes it. Raises ValueError where nothing of it is left."""
    made = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_")[:_MAX_NAME]
    if len(made) < 2:
        raise ValueError(f"{name[:100]!r} makes no event name that Mailchimp takes: 2 to {_MAX_NAME} of a-z, 0-9, _, -")
    return made


def _properties(properties: Mapping[str, Any]) -> dict[str, str]:
    """Text to text: what is none is written as JSON, and null is left out."""
    return {
        re.sub(r"[^A-Za-z0-9_-]+", "_", key): value if isinstance(value, str) else orjson.dumps(value).decode()
        for key, value in properties.items()
        if value is not None
    }


def _why(body: bytes) -> str:
    """What is wrong, and with which fields (RFC 7807, with ``errors[]`` of Mailchimp's)."""
    try:
        problem = orjson.loads(body)
        said = [str(problem["detail"])]
        said += [f"{error['field']}: {error['message']}" for error in (problem.get("errors") or [])[:3]]
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return ""
    return "; ".join(said)[:600]
