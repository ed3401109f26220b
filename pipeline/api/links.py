"""/v1/partners/{partner}/sources/{source}/links: tracked links, pixels, and whole e-mails rewritten."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import AwareDatetime, Field, model_validator

from pipeline.api import tenancy
from pipeline.api.access import check_access
from pipeline.api.desk import AtDesk, Desk
from pipeline.api.errors import ApiError
from pipeline.bridges.email_html import rewrite
from pipeline.bridges.link_token import Tracked, Whose, destination, sign
from pipeline.control.secrets import SecretError
from pipeline.models.base import Model
from pipeline.models.control import Source
from pipeline.settings import Settings

__all__ = ["router"]

router = APIRouter(
    prefix="/v1/partners/{partner}/sources/{source}/links", tags=["links"], dependencies=[Depends(check_access)]
)
#: Of one request.
_MAX_LINKS = 1000
Text = Annotated[str, Field(min_length=1, max_length=200)]
Who = Annotated[str, Field(min_length=1, max_length=320)]


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


AtSettings = Annotated[Settings, Depends(_settings)]


class Recipient(Model):
    """Who is sent it: one of these. Without, each fetch is a visitor of its own."""

    user_id: Who | None = Field(None, alias="userId")
    anonymous_id: Who | None = Field(None, alias="anonymousId")
    email: Who | None = None
    phone: Who | None = None

    @model_validator(mode="after")
    def _one(self) -> Recipient:
        if len(self.whose()) != 1:
            raise ValueError("say one of userId, anonymousId, email, phone")
        return self

    def whose(self) -> list[tuple[Whose, str]]:
        """As a token has it."""
        pairs: list[tuple[Whose, str | None]] = [
            ("u", self.user_id),
            ("a", self.anonymous_id),
            ("e", self.email),
            ("p", self.phone),
        ]
        return [(kind, value) for kind, value in pairs if value is not None]


class _Shared(Model):
    campaign: Text | None = None
    recipient: Recipient | None = None
    expires: AwareDatetime | None = Field(None, description="since then a fetch leads on as before, flagged `expired`")


class NewLink(_Shared):
    """A tracked link, or a pixel for opens."""

    url: str | None = Field(
        None,
        max_length=2000,
        description="where it leads: http or https; left out: a pixel",
        examples=["https://shop.example/"],
    )
    link: Text | None = Field(None, description="which link it is, for people", examples=["header"])


class NewLinks(Model):
    """Links to make, in one go."""

    links: list[NewLink] = Field(min_length=1, max_length=_MAX_LINKS)


class LinkView(Model):
    """`address`: what to put into the mail in place of `url`."""

    address: str
    url: str | None


class LinkViews(Model):
    """In the order that they were asked for."""

    items: list[LinkView]


class NewEmail(_Shared):
    """An e-mail whose links are to be tracked, for one recipient."""

    html: str = Field(
        description='HTML; a link with `data-headrace="skip"` is left alone, `data-headrace-link` names one'
    )
    pixel: bool = Field(True, description="add the pixel that tells when it is opened")


class EmailView(Model):
    """`html`: as it was, but for the links and the pixel."""

    html: str
    links: int = Field(description="tracked now")
    skipped: int = Field(description="left as they were: no web address, a placeholder, asked for, tracked already")


@router.post("", response_model=LinkViews, responses=tenancy.CREATE)
async def make_links(partner: str, source: str, body: NewLinks, desk: AtDesk, settings: AtSettings) -> dict[str, Any]:
    """Tracked links. Nothing is kept of them: all that a click tells is in the link itself, signed."""
    maker = _Maker(desk, settings, partner, source)
    items = []
    for index, each in enumerate(body.links):
        try:
            url = destination(each.url) if each.url is not None else None
            items.append({"address": maker.address(url, each.link, each), "url": url})
        except ValueError as error:
            raise ApiError(400, "invalid", f"the link can't be made: {error}", f"$.links[{index}].url") from None
    return {"items": items}


@router.post("/email", response_model=EmailView, responses=tenancy.CREATE)
async def rewrite_email(
    partner: str, source: str, body: NewEmail, desk: AtDesk, settings: AtSettings
) -> dict[str, Any]:
    """Track the links of a whole e-mail, and add the pixel. All else stays to the byte."""
    maker = _Maker(desk, settings, partner, source)

    def track(url: str, name: str) -> str | None:
        if url.startswith(f"{maker.base}/l/"):
            return None
        try:
            return maker.address(url, name[:200], body)
        except ValueError:
            return None

    wanted = body.pixel and f"{maker.base}/o/" not in body.html
    return rewrite(body.html, track, maker.address(None, None, body) if wanted else None)._asdict()


class _Maker:
    """Signs for one source, with the first of its secrets. Raises ApiError where it can't."""

    def __init__(self, desk: Desk, settings: Settings, partner: str, source: str) -> None:
        tenancy.found(desk.state, "source", desk.state.sources, partner, source)
        self._source: Source = desk.state.sources[partner, source]
        if self._source.bridge != "links":
            raise ApiError(
                409, "wrong_bridge", f"source {source!r} has the bridge {self._source.bridge!r}, not `links`"
            )
        base = self._source.settings.get("address") or settings.public_url
        if not base:
            message = (
                "nothing says how readers reach the gateway: set `address` in the source's settings, or "
                "HEADRACE_PUBLIC_URL for the API"
            )
            raise ApiError(409, "no_address", message)
        self.base = str(base).rstrip("/")
        self._secret = _first_secret(desk, self._source)

    def address(self, url: str | None, link: str | None, shared: _Shared) -> str:
        """Raises ValueError for what is too long."""
        whose, who = shared.recipient.whose()[0] if shared.recipient is not None else (None, None)
        expires = _millis(shared.expires)
        source = self._source
        token = sign(Tracked(source.partner, source.id, url, link, shared.campaign, whose, who, expires), self._secret)
        return f"{self.base}/o/{token}.gif" if url is None else f"{self.base}/l/{token}"


def _first_secret(desk: Desk, source: Source) -> bytes:
    """The first line: put a new one before the old ones, whose links live on while they stand there."""
    if source.secret is not None:
        try:
            lines = [line.strip() for line in desk.secrets.get(source.secret).splitlines() if line.strip()]
        except SecretError:
            raise ApiError(503, "unavailable", "the source's secret cannot be read now; set it anew") from None
        if lines:
            return lines[0].encode()
    raise ApiError(409, "no_secret", f"source {source.id!r} has no secret to sign with; set one")


def _millis(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
