"""/v1/partners/{partner}/sources/{source}/keys: a source's secret keys. Several at a time, so they can be rotated."""

from __future__ import annotations

import hashlib
import secrets
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.desk import AtDesk, expected, free_id
from pipeline.api.errors import ApiError
from pipeline.models.base import Label, Millis, Model, Slug
from pipeline.query.reader import Reader

__all__ = ["router"]

router = tenancy.router("sources")

#: Bytes of a secret; 32 characters as text, none of them a dot.
_RANDOM = 24
#: Two people who change one source at a time; each try is a record of the control log.
_TRIES = 5


def _version(
    if_match: Annotated[
        str | None,
        Header(description="the source's version that this was decided on; the present one when left out"),
    ] = None,
) -> int | None:
    return None if if_match is None else expected(if_match)


AtVersion = Annotated[int | None, Depends(_version)]


class NewKey(Model):
    """A key to make."""

    name: Label = Field(description="for people: who has it", examples=["till 7"])
    id: Slug | None = Field(None, description="made from the name when missing")


class KeyView(Model):
    """A secret key, without the secret."""

    id: Slug
    name: Label
    created: Millis
    last_used: Millis | None = Field(description="when an event last came by it; null: not since activity is known")


class MadeKey(Model):
    """A new key. Its secret is shown here and never again: what is kept is its SHA-256."""

    id: Slug
    name: Label
    created: Millis
    secret: str = Field(description="32 random characters")
    key: str = Field(description="what a client passes: `<partner>.<code>.<secret>`")


class Keys(Model):
    """A source's secret keys, the oldest first."""

    items: list[KeyView]


@router.get("/{source}/keys", response_model=Keys, responses=tenancy.READ)
async def list_keys(partner: str, source: str, desk: AtDesk, request: Request) -> dict[str, Any]:
    """The secret keys of a source, and when each was last used."""
    there = _source(desk, partner, source)
    return {"items": [_view(request, there, key) for key in there["keys"]]}


@router.post("/{source}/keys", status_code=201, response_model=MadeKey, responses=tenancy.CREATE)
async def add_key(
    partner: str, source: str, body: NewKey, desk: AtDesk, expect: AtVersion, response: Response
) -> dict[str, Any]:
    """Make a secret key. The answer alone has the secret. It is taken everywhere within 2 s; others stay."""
    secret = secrets.token_urlsafe(_RANDOM)
    taken = {key["id"] for key in _source(desk, partner, source)["keys"]}
    # A part that is random: the next key of a name is another one, also in what is told of its use.
    name = body.id or free_id(f"{body.name[:30]} {secrets.token_hex(3)}", "key", lambda each: each in taken)
    data = {"id": name, "name": body.name, "hash": hashlib.sha256(secret.encode()).hexdigest()}
    after = await _changed(desk, "source.add_key", partner, source, data, expect)
    made = next((key for key in after["keys"] if key["hash"] == data["hash"]), None)
    if made is None:
        raise ApiError(
            409,
            "repeated",
            "a request with this Idempotency-Key made a key before, and its secret was shown then; list the keys, "
            "revoke that one, and make another",
        )
    response.headers["Cache-Control"] = "no-store"
    response.headers["Location"] = f"/v1/partners/{partner}/sources/{source}/keys/{name}"
    key = f"{partner}.{after['code']}.{secret}"
    return {"id": name, "name": made["name"], "created": made["created"], "secret": secret, "key": key}


@router.delete("/{source}/keys/{key}", response_model=Keys, responses=tenancy.CHANGE)
async def revoke_key(
    partner: str, source: str, key: str, desk: AtDesk, expect: AtVersion, request: Request
) -> dict[str, Any]:
    """Revoke a key: it is refused everywhere within 2 s. The answer has those that are left."""
    after = await _changed(desk, "source.revoke_key", partner, source, {"id": key}, expect)
    return {"items": [_view(request, after, left) for left in after["keys"]]}


async def _changed(
    desk: AtDesk, command: str, partner: str, source: str, data: dict[str, Any], expect: int | None
) -> dict[str, Any]:
    """The source after the command; on the version there is, where none was said."""
    for tries_left in reversed(range(_TRIES)):
        version = expect if expect is not None else _source(desk, partner, source)["version"]
        try:
            return await desk.change(command, partner, data, entity=source, expect=version)
        except ApiError as error:
            if error.problem.code != "stale" or expect is not None or not tries_left:
                raise
            # The refusal is this command's verdict for ever; another try is another command, the same on a repeat.
            desk.command_id = hashlib.sha256(desk.command_id.encode()).hexdigest()[:32]
    raise AssertionError("unreachable")


def _source(desk: AtDesk, partner: str, source: str) -> dict[str, Any]:
    return tenancy.found(desk.state, "source", desk.state.sources, partner, source)


def _view(request: Request, source: dict[str, Any], key: dict[str, Any]) -> dict[str, Any]:
    query: Reader | None = request.app.state.query
    last = query.activities.key_used(source["partner"], source["id"], key["id"]) if query is not None else None
    return {"id": key["id"], "name": key["name"], "created": key["created"], "last_used": last}
