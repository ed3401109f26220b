"""The customer's record on `customers`, and what travels on `moves` (decision 5)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.models.base import Millis, Model, Slug

__all__ = ["Customer", "Membership", "Move", "Redirect"]


class Membership(Model):
    """In a segment since ``since`` (the lane's clock), by segment version; ``scopes``: where it counts.

    A scope is ``*`` (in all), ``s:<source-id>`` or ``c:<channel>``.
    """

    version: int
    since: Millis
    scopes: list[str]


class Customer(Model):
    """Value of `customers` under its canonical identifier (key: the identifier, see `event.identifier`).

    ``leaves``: leaf id -> ``<source>|<channel>`` -> the newest (time, message id) pairs, newest first: a
    merge of sets, never a counter (design: segments, "State").
    """

    id: str = Field(description="canonical customer id, stable for the life of the record")
    partner: Slug
    identifiers: list[str] = Field(description="canonical one first")
    traits: dict[str, Any] = Field(default_factory=dict)
    trait_times: dict[str, Millis] = Field(default_factory=dict, description="event time that set each trait")
    origins: list[str] = Field(default_factory=list, description="`<source>|<channel>` pairs it was seen from")
    leaves: dict[str, dict[str, list[tuple[Millis, str]]]] = Field(default_factory=dict)
    segments: dict[str, Membership] = Field(default_factory=dict)
    first_seen: Millis
    last_seen: Millis
    deadline: Millis | None = Field(None, description="the next moment at which time alone changes something")
    contacts: list[str] = Field(
        default_factory=list,
        description="e-mails and phones, as identifiers, that this user has claimed, granted or not",
    )


class Redirect(Model):
    """Value of `customers` under an identifier whose customer is kept under another one."""

    redirect: str
    since: Millis = Field(0, description="what happened under it before is no part of that customer")


class Move(Model):
    """A record of `moves`, hash-routed by ``to``.

    ``claim``: user ``by`` was seen together with ``to``, an anonymous id, an e-mail or a phone: hand your record over,
    if you are free, from ``since`` on. ``record``: the record of ``by`` joins ``to``. ``event``: an event that reached
    ``by``, a redirect. ``past``: what a back-fill found for ``by``.
    ``erase``: forget the customer ``to``, and what it did until ``at``; ``key`` names the secret that hashes are made
    with. ``fence``: ``by`` was erased, to which ``to`` led.
    """

    kind: Literal["claim", "record", "event", "past", "erase", "fence"]
    to: str
    by: str | None = None
    since: Millis | None = None
    customer: dict[str, Any] | None = None
    event: dict[str, Any] | None = None
    leaves: dict[str, Any] | None = None
    control: int | None = Field(None, description="offset of the control log that the sender knew")
    id: str | None = Field(None, description="of the erasure")
    at: Millis | None = None
    key: str | None = None
