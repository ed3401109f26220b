"""A declared mapping: what a foreign document (a webhook's body, a queue's message, a row) becomes as raw events.

An expression is JSON. A text that begins with ``$`` is a path into the document (``$.data.items[0].id``; ``@`` in its
place: into the element of ``each``; ``$header.x-name``: a header in lower case). A text with ``{$.path}`` or
``{@.path}`` in it is a template; ``{$.path|title}`` casts first. An object ``{"path", "as"?, "scale"?, "default"?}`` is
a path with a cast. Anything else stands for itself.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.models.base import Model

__all__ = ["Expression", "MappedEvent", "Mapping", "Taken"]

Path = Annotated[str, Field(pattern=r"^[$@]", max_length=500)]


class Taken(Model):
    """A value by its path, cast: ``seconds`` and ``milliseconds`` since 1970 become RFC 3339 text, ``count`` is the
    length of a list, ``title`` makes ``review_requested`` Review Requested."""

    path: Path
    cast: (
        Literal["string", "title", "count", "number", "integer", "boolean", "lower", "seconds", "milliseconds", "phone"]
        | None
    ) = Field(None, alias="as")
    scale: float | None = Field(None, description="a number is multiplied by it: 0.01 for minor units of a currency")
    default: Any = None


Expression = Taken | str | int | float | bool | None


class MappedEvent(Model):
    """One kind of event that a document may become. All of ``when`` must hold; the first that fits makes the event.

    ``when``: path -> the value, a list of which it must be one, or true/false for there or not there (where the
    document holds a boolean at the path, it is compared with it). ``each``: path of a list; an event per element.
    """

    when: dict[Path, Any] = Field(default_factory=dict)
    each: Path | None = None
    type: Literal["track", "page", "screen", "identify", "group", "alias"] = "track"
    event: Expression = None
    user_id: Expression = Field(None, alias="userId")
    anonymous_id: Expression = Field(None, alias="anonymousId")
    message_id: Expression = Field(None, alias="messageId")
    timestamp: Expression = None
    properties: dict[str, Expression] | Path = Field(default_factory=dict)
    traits: dict[str, Expression] | Path = Field(default_factory=dict)
    context: dict[str, Expression] | Path = Field(default_factory=dict)


class Mapping(Model):
    """The events a document may become, tried in order. ``others``: what becomes of one that none fits:
    ``reject`` (told to the sender, or `rejected` on a topic) or ``ignore`` (acknowledged, and nothing recorded)."""

    events: list[MappedEvent] = Field(min_length=1, max_length=200)
    others: Literal["reject", "ignore"] = "reject"
