"""The control log (decision 7): entities, commands, verdicts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from pipeline.models import segment1
from pipeline.models.base import Code, Label, Millis, Model, Slug
from pipeline.models.catalogue import EventType
from pipeline.models.policy import Policy
from pipeline.models.segment import Condition
from pipeline.models.trait import Computation

__all__ = [
    "COMMANDS",
    "MAX_KEYS",
    "Bridge",
    "Channel",
    "Command",
    "Domain",
    "Entity",
    "EventTypeCreate",
    "EventTypeEdit",
    "Integration",
    "IntegrationCreate",
    "IntegrationEdit",
    "Mailing",
    "MailingCreate",
    "MailingEdit",
    "Partner",
    "PartnerCreate",
    "PartnerEdit",
    "PartnerEventType",
    "Restriction",
    "Rule",
    "RuleCreate",
    "RuleCreate6",
    "RuleEdit",
    "RuleEdit6",
    "Segment",
    "SegmentCreate",
    "SegmentCreate4",
    "SegmentEdit",
    "SegmentEdit4",
    "Source",
    "SourceCreate",
    "SourceCreate3",
    "SourceEdit",
    "SourceEdit3",
    "SourceKey",
    "SourceKeyAdd",
    "SourceKeyRevoke",
    "Trait",
    "TraitCreate",
    "TraitEdit",
    "Verdict",
]

SYSTEM_SOURCE_ID = "online-store"
SYSTEM_SOURCE_NAME = "Online Store"

#: How data comes in: the name of a bridge (`pipeline.bridges.registry`), or `kafka`, a producer straight to the topic.
#: An open list here; the API checks it, and the settings, against the bridge's own model, so that bridges may grow.
Bridge = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$")]
#: What commands of version 1 know.
_Bridge1 = Literal["js", "rest", "webhook-github", "kafka"]
#: Of one source, at one time.
MAX_KEYS = 10
#: Web, Mobile, CRM, Call Center, E-mail, Messenger, …: an open list.
Channel = Annotated[str, StringConstraints(min_length=1, max_length=60, strip_whitespace=True)]
_HOST = r"^(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?::\d{1,5})?$"
EventName = Annotated[str, Field(min_length=1, max_length=200)]
#: A host name, `*.` before it for its subdomains too, a port where it is not the scheme's own.
Domain = Annotated[str, StringConstraints(pattern=_HOST, max_length=253)]


class Partner(Model):
    """A tenant: topics, keys, state and queries are scoped by it."""

    id: Slug
    name: Label
    sending: bool = Field(False, description="the master switch of dispatch")
    version: int
    created: Millis
    updated: Millis


class SourceKey(Model):
    """A secret write key, of which only the hash is kept: SHA-256, in hex, of 32 random characters.

    Clients pass ``<partner-id>.<code>.<secret>``. When it was last used is told by `sources.activity`, not by the log.
    """

    id: Slug
    name: Label
    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    created: Millis


class Source(Model):
    """An event source: a defined entry point. ``id`` names its topic and never changes; ``code`` may."""

    id: Slug
    partner: Slug
    name: Label
    code: Code
    domain: Domain | None = None
    description: str = ""
    channel: Channel = "Web"
    bridge: Bridge = "js"
    settings: dict[str, Any] = Field(default_factory=dict, description="the bridge's own, e.g. a queue's topic")
    policy: Policy = Field(default_factory=Policy)
    keys: list[SourceKey] = Field(default_factory=list, description="secret write keys, several during a rotation")
    secret: str | None = Field(None, description="id of the bridge's secret on the `secrets` topic")
    system: bool = False
    active: bool = True
    removed: bool = False
    version: int
    created: Millis
    updated: Millis

    @property
    def key(self) -> str:
        """What a client passes: ``<partner-id>.<code>``."""
        return f"{self.partner}.{self.code}"

    def allows_origin(self, origin: str) -> bool:
        """Whether a page of ``origin`` (``https://shop.example``, with its port if any) may send to this source.

        Any origin may where the source has no domain. A domain without a port stands for every port.
        """
        if self.domain is None:
            return True
        host = origin.rpartition("//")[2].partition("/")[0].lower()
        wanted, colon, _ = self.domain.partition(":")
        if not colon:
            host = host.partition(":")[0]
        else:
            wanted = self.domain
        if wanted.startswith("*."):
            return host.endswith(wanted[1:]) and len(host) > len(wanted) - 1
        return host == wanted

    @property
    def topic(self) -> str:
        """Its raw topic: ``raw.<partner-id>.<source-id>``."""
        return f"raw.{self.partner}.{self.id}"


class Segment(Model):
    """A named condition on customers. ``version`` counts edits; ``since``: when this condition went live."""

    id: Slug
    partner: Slug
    name: Label
    description: str = ""
    condition: Condition
    archived: bool = False
    version: int
    created: Millis
    updated: Millis
    since: Millis


class Integration(Model):
    """An external tool: ``kind`` names a module of `pipeline.sinks`, ``settings`` are that module's own."""

    id: Slug
    partner: Slug
    name: Label
    kind: str
    settings: dict[str, Any] = Field(default_factory=dict)
    secret: str | None = Field(None, description="id of its secret on the `secrets` topic")
    enabled: bool = True
    removed: bool = False
    version: int
    created: Millis
    updated: Millis

    @property
    def topic(self) -> str:
        """Its dispatch topic: ``dispatch.<partner-id>.<integration-id>``."""
        return f"dispatch.{self.partner}.{self.id}"


class Restriction(Model):
    """Send only if this property of the event is one of ``values``, strict by type."""

    property: Annotated[str, Field(min_length=1, max_length=200)]
    values: list[str | int | float | bool] = Field(min_length=1, max_length=200)


class Rule(Model):
    """Event -> integration, with restrictions, a prefix for the event's name, and a switch of its own.

    ``filter``: a CEL expression that must be true besides; empty: none. ``mapping``: field -> expression, what of the
    integration's preset mapping is otherwise here. The API checks both: what they may say grows.
    """

    id: Slug
    partner: Slug
    event: str
    integration: Slug
    restrictions: list[Restriction] = Field(default_factory=list)
    filter: str = ""
    mapping: dict[str, Any] = Field(default_factory=dict)
    prefix: str = ""
    enabled: bool = True
    version: int
    created: Millis
    updated: Millis


class Mailing(Model):
    """A segment sent whole to an integration: each member once, as it is when its turn comes.

    ``name``: of the event that the tool is told; ``rate``: customers a second, over all lanes; None: as fast as can be.
    """

    id: Slug
    partner: Slug
    segment: Slug
    integration: Slug
    name: str
    rate: int | None = None
    paused: bool = False
    version: int
    created: Millis
    updated: Millis

    @property
    def topic(self) -> str:
        """The integration's dispatch topic."""
        return f"dispatch.{self.partner}.{self.integration}"


class PartnerEventType(Model):
    """An event type of the partner's own: it stands beside the catalogue, and before one of the same name there."""

    id: Slug
    partner: Slug
    event: EventName
    type: EventType
    version: int
    created: Millis
    updated: Millis


class Trait(Model):
    """A trait that is computed of a customer's events. It stands among its traits as ``computed.<id>``.

    ``since``: when it went live as it is.
    """

    id: Slug
    partner: Slug
    name: Label
    description: str = ""
    computation: Computation
    version: int
    created: Millis
    updated: Millis
    since: Millis


Entity = Partner | Source | Segment | Integration | Rule | Mailing | PartnerEventType | Trait


class PartnerCreate(Model):
    """A new partner; it brings its system source."""

    id: Slug
    name: Label


class PartnerEdit(Model):
    """Fields left out stay."""

    name: Label | None = None
    sending: bool | None = None


class SourceCreate(Model):
    """A new user-defined source; ``id`` is made from the name when missing (by the API, before the log)."""

    id: Slug
    name: Label
    code: Code
    domain: Domain | None = None
    description: Annotated[str, Field(max_length=2000)] = ""
    channel: Channel = "Web"
    bridge: _Bridge1 = "js"
    secret: str | None = None


class SourceCreate3(SourceCreate):
    """As version 3 has it: any bridge, with its settings, and a policy."""

    bridge: Bridge = "js"  # type: ignore[assignment]
    settings: dict[str, Any] = Field(default_factory=dict)
    policy: Policy = Field(default_factory=Policy)


class SourceEdit(Model):
    """Fields left out stay. ``domain: ""`` removes the domain. A system source's name is fixed."""

    name: Label | None = None
    code: Code | None = None
    domain: Domain | Literal[""] | None = None
    description: Annotated[str, Field(max_length=2000)] | None = None
    channel: Channel | None = None
    active: bool | None = None
    secret: str | None = None


class SourceEdit3(SourceEdit):
    """As version 3 has it; ``settings`` and ``policy`` are replaced whole."""

    settings: dict[str, Any] | None = None
    policy: Policy | None = None


class SourceKeyAdd(Model):
    """One more secret key of a source."""

    id: Slug
    name: Label
    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class SourceKeyRevoke(Model):
    """A key of a source that is taken no more, from now on."""

    id: Slug


class SegmentCreate(Model):
    """A new segment."""

    id: Slug
    name: Label
    condition: segment1.Condition
    description: Annotated[str, Field(max_length=2000)] = ""


class SegmentCreate4(SegmentCreate):
    """As version 4 has it: with every leaf of the language."""

    condition: Condition  # type: ignore[assignment]


class SegmentEdit(Model):
    """Fields left out stay."""

    name: Label | None = None
    condition: segment1.Condition | None = None
    description: Annotated[str, Field(max_length=2000)] | None = None
    archived: bool | None = None


class SegmentEdit4(SegmentEdit):
    """As version 4 has it: with every leaf of the language."""

    condition: Condition | None = None  # type: ignore[assignment]


class IntegrationCreate(Model):
    """A new integration."""

    id: Slug
    name: Label
    kind: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,40}$")]
    settings: dict[str, Any] = Field(default_factory=dict)
    secret: str | None = None


class IntegrationEdit(Model):
    """Fields left out stay; ``settings`` are replaced whole."""

    name: Label | None = None
    settings: dict[str, Any] | None = None
    secret: str | None = None
    enabled: bool | None = None


class RuleCreate(Model):
    """A new rule."""

    id: Slug
    event: Annotated[str, Field(min_length=1, max_length=200)]
    integration: Slug
    restrictions: list[Restriction] = Field(default_factory=list, max_length=20)
    prefix: Annotated[str, Field(max_length=100)] = ""
    enabled: bool = True


class RuleEdit(Model):
    """Fields left out stay."""

    integration: Slug | None = None
    restrictions: list[Restriction] | None = None
    prefix: Annotated[str, Field(max_length=100)] | None = None
    enabled: bool | None = None


_Filter = Annotated[str, Field(max_length=2000)]
_Mapping = Annotated[dict[str, Any], Field(max_length=50)]


class RuleCreate6(RuleCreate):
    """As version 6 has it: with a filter and a mapping."""

    filter: _Filter = ""
    mapping: _Mapping = Field(default_factory=dict)


class RuleEdit6(RuleEdit):
    """As version 6 has it; ``filter: ""`` removes the filter, ``mapping`` is replaced whole."""

    filter: _Filter | None = None
    mapping: _Mapping | None = None


_Rate = Annotated[int, Field(ge=1, le=1_000_000)]


class MailingCreate(Model):
    """A new mailing. It begins at once, unless it is ``paused``."""

    id: Slug
    segment: Slug
    integration: Slug
    name: Annotated[str, Field(min_length=1, max_length=200)] = "Segment Member"
    rate: _Rate | None = None
    paused: bool = False


class MailingEdit(Model):
    """Fields left out stay."""

    rate: _Rate | None = None
    paused: bool | None = None


class EventTypeCreate(Model):
    """An event type of the partner's own."""

    id: Slug
    event: EventName
    type: EventType


class EventTypeEdit(Model):
    """Replaces the type whole; the event's name is fixed."""

    type: EventType | None = None


class TraitCreate(Model):
    """A new computed trait."""

    id: Slug
    name: Label
    computation: Computation
    description: Annotated[str, Field(max_length=2000)] = ""


class TraitEdit(Model):
    """Fields left out stay; ``computation`` is replaced whole."""

    name: Label | None = None
    computation: Computation | None = None
    description: Annotated[str, Field(max_length=2000)] | None = None


class Remove(Model):
    """Nothing but the command itself."""


_VERSION_1: dict[str, type[Model]] = {
    "partner.create": PartnerCreate,
    "partner.edit": PartnerEdit,
    "source.create": SourceCreate,
    "source.edit": SourceEdit,
    "source.remove": Remove,
    "segment.create": SegmentCreate,
    "segment.edit": SegmentEdit,
    "segment.remove": Remove,
    "integration.create": IntegrationCreate,
    "integration.edit": IntegrationEdit,
    "integration.remove": Remove,
    "rule.create": RuleCreate,
    "rule.edit": RuleEdit,
    "rule.remove": Remove,
}
_VERSION_3: dict[str, type[Model]] = _VERSION_1 | {
    "source.create": SourceCreate3,
    "source.edit": SourceEdit3,
    "source.add_key": SourceKeyAdd,
    "source.revoke_key": SourceKeyRevoke,
    "event_type.create": EventTypeCreate,
    "event_type.edit": EventTypeEdit,
    "event_type.remove": Remove,
}
_VERSION_4: dict[str, type[Model]] = {
    **_VERSION_3,
    "segment.create": SegmentCreate4,
    "segment.edit": SegmentEdit4,
}
_VERSION_5: dict[str, type[Model]] = {
    **_VERSION_4,
    "mailing.create": MailingCreate,
    "mailing.edit": MailingEdit,
    "mailing.remove": Remove,
}
#: Command version ``v`` -> command name -> model of its data. A verdict's rules are frozen per version; there is no
#: version 2, since version 1's rules refuse a record that says so.
COMMANDS: dict[int, dict[str, type[Model]]] = {
    1: _VERSION_1,
    3: _VERSION_3,
    4: _VERSION_4,
    5: _VERSION_5,
    6: {
        **_VERSION_5,
        "rule.create": RuleCreate6,
        "rule.edit": RuleEdit6,
        "trait.create": TraitCreate,
        "trait.edit": TraitEdit,
        "trait.remove": Remove,
    },
}


class Command(Model):
    """One record of the control log. ``expect``: the version it was written against (edits and removals)."""

    v: Literal[1, 3, 4, 5, 6] = 6
    id: Annotated[str, Field(min_length=8, max_length=64)] = Field(description="unique; a repeat changes nothing")
    command: str
    partner: Slug
    entity: Slug | None = Field(None, description="the entity's id; for creations it stands in the data")
    expect: int | None = None
    by: Annotated[str, Field(max_length=200)] = "unknown"
    data: dict[str, Any] = Field(default_factory=dict)

    @field_validator("command")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        known = COMMANDS[info.data.get("v", 1)]
        if value not in known:
            raise ValueError(f"no command {value!r}; one of {', '.join(known)}")
        return value


class Verdict(Model):
    """What the reducer said of a command: 200/201, or 400, 404, 409 with a code and a sentence."""

    offset: int
    command_id: str
    status: int
    code: str = "ok"
    detail: str = ""
    path: str | None = None
    entity: dict[str, Any] | None = None
