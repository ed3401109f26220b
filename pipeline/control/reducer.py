"""The reducer of the control log (decision 7): pure and deterministic, the same in every process.

Frozen per command version ``v``: a verdict's status, code, path and entity, and the state that follows.
``detail`` is for people and may be reworded. tests/control/golden holds logs with their verdicts.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.control import members
from pipeline.control.faults import fault
from pipeline.control.judging import Refused, changes_of, document_of, edited, expected, fields, parse, refuse
from pipeline.models import segment1
from pipeline.models.base import Millis, Model
from pipeline.models.control import (
    COMMANDS,
    MAX_KEYS,
    SYSTEM_SOURCE_ID,
    SYSTEM_SOURCE_NAME,
    Command,
    Entity,
    EventTypeCreate,
    EventTypeEdit,
    Integration,
    IntegrationCreate,
    IntegrationEdit,
    Mailing,
    MailingCreate,
    MailingEdit,
    Partner,
    PartnerCreate,
    PartnerEdit,
    PartnerEventType,
    Rule,
    RuleCreate,
    RuleEdit,
    Segment,
    SegmentCreate,
    SegmentCreate4,
    SegmentEdit,
    SegmentEdit4,
    Source,
    SourceCreate,
    SourceEdit,
    SourceKey,
    SourceKeyAdd,
    SourceKeyRevoke,
    Trait,
    TraitCreate,
    TraitEdit,
    Verdict,
)
from pipeline.models.segment import Condition, Definition, Did, dids_of, leaves_of

__all__ = ["REMEMBERED", "ControlState"]

#: So many command ids are remembered, to answer a repeat with its first verdict. An older repeat is still
#: harmless: a creation meets its own id (409), an edit its own version (409). About 10 MB when full.
REMEMBERED = 10_000

_log = logging.getLogger(__name__)
_Owned = TypeVar("_Owned", Source, Segment, Integration, Rule, Mailing, PartnerEventType, Trait)
_CONDITION: TypeAdapter[Condition] = TypeAdapter(Condition)
#: Fields that came with a later version: verdicts on commands of an earlier one stay as they were.
_SINCE: dict[type[Entity], tuple[int, set[str]]] = {
    Source: (3, {"settings", "policy", "keys"}),
    Rule: (6, {"filter", "mapping"}),
}


class ControlState:
    """Everything the control log says so far. Only `apply` changes it; entities are frozen models.

    ``offset``: the last record applied, -1 before the first. ``sources`` and ``integrations`` keep removed
    ones (``removed``: True), the other tables drop them; no id is ever used twice in its table.
    ``retired``: codes that a source had, or that went with it, and nobody has now. A retired code may be
    taken by another source; until then events that carry it can be refused by name.
    """

    def __init__(self) -> None:
        self.offset = -1
        self.partners: dict[str, Partner] = {}
        self.sources: dict[tuple[str, str], Source] = {}
        self.segments: dict[tuple[str, str], Segment] = {}
        self.integrations: dict[tuple[str, str], Integration] = {}
        self.rules: dict[tuple[str, str], Rule] = {}
        self.mailings: dict[tuple[str, str], Mailing] = {}
        self.event_types: dict[tuple[str, str], PartnerEventType] = {}
        self.traits: dict[tuple[str, str], Trait] = {}
        self.retired: dict[tuple[str, str], str] = {}
        self._codes: dict[tuple[str, str], str] = {}
        self._spent: set[tuple[str, str, str]] = set()
        self._verdicts: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def source_by_key(self, key: str) -> Source | None:
        """The source, active or not, whose present code the key names (``<partner-id>.<code>``), or None."""
        partner, _, code = key.partition(".")
        source = self._codes.get((partner, code))
        return None if source is None else self.sources[partner, source]

    def taken(self, noun: str, partner: str, name: str) -> bool:
        """Whether ``name`` is, or ever was, an id of ``noun``: source, segment, rule, mailing, …"""
        return (noun, partner, name) in self._spent or (partner, name) in getattr(self, f"{noun}s")

    def apply(self, offset: int, time_ms: Millis, value: bytes) -> Verdict:
        """Judge one record of the log, and change the state if it is accepted. No bytes make it raise.

        ``time_ms``: the broker's append time. Raises ValueError when ``offset`` was already applied.
        """
        if offset <= self.offset:
            raise ValueError(f"control record {offset} comes again; {self.offset} was applied last")
        self.offset = offset
        command: Command | None = None
        name = ""
        try:
            document = document_of(value)
            name = document["id"][:64] if isinstance(document.get("id"), str) else ""
            command = parse(Command, document, "$")
            known = self._verdicts.get((command.partner, command.id))
            if known is not None:
                return Verdict.model_validate_json(known)
            entity = self._judge(command, time_ms)
        except Refused as no:
            verdict = Verdict(
                offset=offset, command_id=name, status=no.status, code=no.code, detail=no.detail, path=no.path
            )
        except Exception:
            # A bug of ours must not stop every process at this record. It was raised before any change.
            _log.exception("control record %d: the reducer failed; the command is refused", offset)
            verdict = Verdict(offset=offset, command_id=name, status=500, code="bug", detail="our fault; see the log")
        else:
            status = 201 if command.command.endswith(".create") else 200
            since, hidden = _SINCE.get(type(entity), (0, set()))
            hidden = hidden if command.v < since else set()
            dump = entity.model_dump(mode="json", by_alias=True, exclude=hidden)
            verdict = Verdict(offset=offset, command_id=name, status=status, entity=dump)
        if command is not None:
            self._verdicts[command.partner, command.id] = verdict.to_json()
            if len(self._verdicts) > REMEMBERED:
                self._verdicts.popitem(last=False)
        return verdict

    def _judge(self, command: Command, now: Millis) -> Entity:
        data = parse(COMMANDS[command.v][command.command], command.data, "$.data")
        noun, _, verb = command.command.partition(".")
        if verb == "create":
            if command.expect not in (None, 0):
                refuse(400, "invalid", "a creation expects no version; leave `expect` out", "$.expect")
            named = command.partner if noun == "partner" else command.entity
            if named is not None and named != data.id:  # type: ignore[attr-defined]
                where = "partner" if noun == "partner" else "entity"
                refuse(400, "invalid", f"`{where}` says {named!r}, the data say another id", "$.data.id")
        if noun != "partner" and command.partner not in self.partners:
            refuse(404, "unknown_partner", f"no partner {command.partner!r}; create it first", "$.partner")
        return _HANDLERS[command.command](self, command, data, now)

    # Partners

    def _partner_create(self, command: Command, data: PartnerCreate, now: Millis) -> Entity:
        if data.id in self.partners:
            refuse(409, "duplicate_id", f"there is a partner {data.id!r} already", "$.data.id")
        partner = Partner(id=data.id, name=data.name, version=1, created=now, updated=now)
        system = Source(
            id=SYSTEM_SOURCE_ID,
            partner=data.id,
            name=SYSTEM_SOURCE_NAME,
            code=SYSTEM_SOURCE_ID,
            system=True,
            version=1,
            created=now,
            updated=now,
        )
        self.partners[data.id] = partner
        self._put_source(system)
        return partner

    def _partner_edit(self, command: Command, data: PartnerEdit, now: Millis) -> Entity:
        if command.entity not in (None, command.partner):
            refuse(400, "invalid", "`entity` of a partner's command is the partner itself", "$.entity")
        partner = self.partners.get(command.partner)
        if partner is None:
            refuse(404, "unknown_partner", f"no partner {command.partner!r}", "$.partner")
        expected(command, partner)
        after = edited(partner, changes_of(data), now)
        self.partners[command.partner] = after
        return after

    # Sources

    def _source_create(self, command: Command, data: SourceCreate, now: Millis) -> Entity:
        self._fresh("source", self.sources, command.partner, data.id)
        self._free_code(command.partner, data.code)
        source = Source(**fields(data), partner=command.partner, version=1, created=now, updated=now)
        self._put_source(source)
        return source

    def _source_edit(self, command: Command, data: SourceEdit, now: Millis) -> Entity:
        source = self._present("source", self.sources, command)
        changes = changes_of(data)
        if source.system and changes.get("name", source.name) != source.name:
            refuse(409, "system_source", f"the system source is always named {source.name!r}", "$.data.name")
        if changes.get("code", source.code) != source.code:
            self._free_code(command.partner, changes["code"])
        if changes.get("domain") == "":
            changes["domain"] = None
        after = edited(source, changes, now)
        self._put_source(after, before=source)
        return after

    def _source_remove(self, command: Command, data: Model, now: Millis) -> Entity:
        source = self._present("source", self.sources, command)
        if source.system:
            refuse(409, "system_source", f"{source.name!r} is never removed; switch it off", "$.entity")
        removed = edited(source, {"removed": True, "active": False}, now)
        self._put_source(removed, before=source)
        return removed

    def _source_add_key(self, command: Command, data: SourceKeyAdd, now: Millis) -> Entity:
        source = self._present("source", self.sources, command)
        if any(key.id == data.id for key in source.keys):
            refuse(409, "duplicate_id", f"the source has a key {data.id!r} already", "$.data.id")
        if len(source.keys) >= MAX_KEYS:
            refuse(409, "too_many_keys", f"a source has {MAX_KEYS} keys at most; revoke one first", "$.data.id")
        return self._put_keys(source, [*source.keys, SourceKey(**fields(data), created=now)], now)

    def _source_revoke_key(self, command: Command, data: SourceKeyRevoke, now: Millis) -> Entity:
        source = self._present("source", self.sources, command)
        rest = [key for key in source.keys if key.id != data.id]
        if len(rest) == len(source.keys):
            refuse(404, "unknown_key", f"source {source.id!r} has no key {data.id!r}", "$.data.id")
        return self._put_keys(source, rest, now)

    def _put_keys(self, source: Source, keys: list[SourceKey], now: Millis) -> Source:
        after = edited(source, {"keys": keys}, now)
        self._put_source(after, before=source)
        return after

    def _free_code(self, partner: str, code: str) -> None:
        owner = self._codes.get((partner, code))
        if owner is not None:
            refuse(409, "duplicate_code", f"source {owner!r} has code {code!r}; choose another", "$.data.code")

    def _put_source(self, source: Source, before: Source | None = None) -> None:
        if before is not None:
            del self._codes[before.partner, before.code]
            self.retired[before.partner, before.code] = before.id
        if not source.removed:
            self._codes[source.partner, source.code] = source.id
            self.retired.pop((source.partner, source.code), None)
        self.sources[source.partner, source.id] = source

    # Segments

    def _segment_create(self, command: Command, data: SegmentCreate | SegmentCreate4, now: Millis) -> Entity:
        self._fresh("segment", self.segments, command.partner, data.id)
        condition = self._checked(command.partner, data.id, data.condition)
        stamps = {"version": 1, "created": now, "updated": now, "since": now}
        segment = Segment(**fields(data) | {"condition": condition}, partner=command.partner, **stamps)
        self.segments[command.partner, data.id] = segment
        return segment

    def _segment_edit(self, command: Command, data: SegmentEdit | SegmentEdit4, now: Millis) -> Entity:
        segment = self._present("segment", self.segments, command)
        changes = changes_of(data)
        if data.condition is not None:
            changes["condition"] = self._checked(command.partner, segment.id, data.condition)
            if changes["condition"].to_json() != segment.condition.to_json():
                changes["since"] = now
        if data.archived:
            self._unused(segment)
        if data.archived is False and segment.archived and data.condition is None:
            # What it is made of may have gone meanwhile, or may have come to be made of it.
            self._check_members(segment.partner, segment.id, segment.condition, "$.condition")
        after = edited(segment, changes, now)
        self.segments[command.partner, segment.id] = after
        return after

    def _segment_remove(self, command: Command, data: Model, now: Millis) -> Entity:
        segment = self._present("segment", self.segments, command)
        self._unused(segment)
        return self._drop("segment", self.segments, segment)

    def _checked(self, partner: str, segment: str, given: Condition | segment1.Condition) -> Condition:
        """Within the language's bounds, about sources and segments that the partner has, and not about itself."""
        condition: Condition = _CONDITION.validate_python(given.model_dump(by_alias=True))
        try:
            Definition(name="-", condition=condition)
        except ValidationError as error:
            refuse(400, "invalid", fault(error, {})[1], "$.data.condition")
        for path, leaf in leaves_of(condition, "$.data.condition"):
            for step, did in dids_of(leaf):
                self._has_source(partner, did, f"{path}{step}")
        self._check_members(partner, segment, condition, "$.data.condition")
        return condition

    def _has_source(self, partner: str, did: Did, path: str) -> None:
        if did.source is not None and (partner, did.source) not in self.sources:
            refuse(400, "invalid", f"the partner has no source {did.source!r}", f"{path}.source")

    def _check_members(self, partner: str, segment: str, condition: Condition, root: str) -> None:
        if wrong := members.wrong(self.segments, partner, segment, condition, root):
            refuse(400, *wrong)

    def _unused(self, segment: Segment) -> None:
        if users := members.users(self.segments, segment):
            refuse(409, "in_use", f"segment {users[0]!r} is made of it; change that one first", "$.entity")

    # Integrations and rules

    def _integration_create(self, command: Command, data: IntegrationCreate, now: Millis) -> Entity:
        self._fresh("integration", self.integrations, command.partner, data.id)
        integration = Integration(**fields(data), partner=command.partner, version=1, created=now, updated=now)
        self.integrations[command.partner, data.id] = integration
        return integration

    def _integration_edit(self, command: Command, data: IntegrationEdit, now: Millis) -> Entity:
        integration = self._present("integration", self.integrations, command)
        after = edited(integration, changes_of(data), now)
        self.integrations[command.partner, after.id] = after
        return after

    def _integration_remove(self, command: Command, data: Model, now: Millis) -> Entity:
        integration = self._present("integration", self.integrations, command)
        users = sorted(
            rule.id
            for rule in self.rules.values()
            if rule.partner == command.partner and rule.integration == integration.id
        )
        if users:
            some = ", ".join(users[:10]) + (", …" if len(users) > 10 else "")
            refuse(
                409,
                "in_use",
                f"used by rules {some}; change or remove them first",
                "$.entity",
            )
        removed = edited(integration, {"removed": True, "enabled": False}, now)
        self.integrations[command.partner, removed.id] = removed
        return removed

    def _rule_create(self, command: Command, data: RuleCreate, now: Millis) -> Entity:
        self._fresh("rule", self.rules, command.partner, data.id)
        self._has_integration(command.partner, data.integration)
        rule = Rule(**fields(data), partner=command.partner, version=1, created=now, updated=now)
        self.rules[command.partner, data.id] = rule
        return rule

    def _rule_edit(self, command: Command, data: RuleEdit, now: Millis) -> Entity:
        rule = self._present("rule", self.rules, command)
        if data.integration is not None:
            self._has_integration(command.partner, data.integration)
        after = edited(rule, changes_of(data), now)
        self.rules[command.partner, after.id] = after
        return after

    def _rule_remove(self, command: Command, data: Model, now: Millis) -> Entity:
        return self._drop("rule", self.rules, self._present("rule", self.rules, command))

    def _has_integration(self, partner: str, name: str) -> None:
        integration = self.integrations.get((partner, name))
        if integration is None or integration.removed:
            detail = f"the partner has no integration {name!r}; create it first"
            refuse(404, "unknown_integration", detail, "$.data.integration")

    # Mailings

    def _mailing_create(self, command: Command, data: MailingCreate, now: Millis) -> Entity:
        self._fresh("mailing", self.mailings, command.partner, data.id)
        self._has_integration(command.partner, data.integration)
        segment = self.segments.get((command.partner, data.segment))
        if segment is None or segment.archived:
            detail = f"the partner has no segment {data.segment!r}, or it is archived"
            refuse(404, "unknown_segment", detail, "$.data.segment")
        mailing = Mailing(**fields(data), partner=command.partner, version=1, created=now, updated=now)
        self.mailings[command.partner, data.id] = mailing
        return mailing

    def _mailing_edit(self, command: Command, data: MailingEdit, now: Millis) -> Entity:
        after = edited(self._present("mailing", self.mailings, command), changes_of(data), now)
        self.mailings[command.partner, after.id] = after
        return after

    def _mailing_remove(self, command: Command, data: Model, now: Millis) -> Entity:
        return self._drop("mailing", self.mailings, self._present("mailing", self.mailings, command))

    # Event types of the partner's own

    def _event_type_create(self, command: Command, data: EventTypeCreate, now: Millis) -> Entity:
        self._fresh("event_type", self.event_types, command.partner, data.id)
        same = (t.id for t in self.event_types.values() if (t.partner, t.event) == (command.partner, data.event))
        owner = next(same, None)
        if owner is not None:
            refuse(409, "duplicate_event", f"event type {owner!r} is of {data.event!r}; edit it", "$.data.event")
        made = PartnerEventType(**fields(data), partner=command.partner, version=1, created=now, updated=now)
        self.event_types[command.partner, data.id] = made
        return made

    def _event_type_edit(self, command: Command, data: EventTypeEdit, now: Millis) -> Entity:
        after = edited(self._present("event_type", self.event_types, command), changes_of(data), now)
        self.event_types[command.partner, after.id] = after
        return after

    def _event_type_remove(self, command: Command, data: Model, now: Millis) -> Entity:
        return self._drop("event_type", self.event_types, self._present("event_type", self.event_types, command))

    # Computed traits

    def _trait_create(self, command: Command, data: TraitCreate, now: Millis) -> Entity:
        self._fresh("trait", self.traits, command.partner, data.id)
        self._has_source(command.partner, data.computation.of, "$.data.computation.of")
        stamps = {"version": 1, "created": now, "updated": now, "since": now}
        trait = Trait(**fields(data), partner=command.partner, **stamps)
        self.traits[command.partner, data.id] = trait
        return trait

    def _trait_edit(self, command: Command, data: TraitEdit, now: Millis) -> Entity:
        trait = self._present("trait", self.traits, command)
        changes = changes_of(data)
        if data.computation is not None:
            self._has_source(command.partner, data.computation.of, "$.data.computation.of")
            if data.computation.to_json() != trait.computation.to_json():
                changes["since"] = now
        after = edited(trait, changes, now)
        self.traits[command.partner, after.id] = after
        return after

    def _trait_remove(self, command: Command, data: Model, now: Millis) -> Entity:
        trait = self._present("trait", self.traits, command)
        if users := members.lookers(self.segments.values(), trait):
            refuse(409, "in_use", f"segment {users[0]!r} looks at it; change that one first", "$.entity")
        return self._drop("trait", self.traits, trait)

    # What all of them need

    def _fresh(self, noun: str, table: dict[tuple[str, str], _Owned], partner: str, name: str) -> None:
        there = table.get((partner, name))
        if (noun, partner, name) in self._spent or getattr(there, "removed", False):
            detail = f"{noun} {name!r} was removed, and ids are never used again; choose another"
            refuse(409, "duplicate_id", detail, "$.data.id")
        if there is not None:
            refuse(409, "duplicate_id", f"there is a {noun} {name!r} already", "$.data.id")

    def _present(self, noun: str, table: dict[tuple[str, str], _Owned], command: Command) -> _Owned:
        """The entity that the command names, at the version it expects."""
        if command.entity is None:
            refuse(400, "invalid", f"`entity` must name the {noun}", "$.entity")
        entity = table.get((command.partner, command.entity))
        if getattr(entity, "removed", False) or (noun, command.partner, command.entity) in self._spent:
            refuse(404, "removed", f"{noun} {command.entity!r} was removed", "$.entity")
        if entity is None:
            refuse(
                404,
                f"unknown_{noun}",
                f"partner {command.partner!r} has no {noun} {command.entity!r}",
                "$.entity",
            )
        expected(command, entity)
        return entity

    def _drop(self, noun: str, table: dict[tuple[str, str], _Owned], entity: _Owned) -> Entity:
        """Take the entity out; its id is never used again."""
        del table[entity.partner, entity.id]
        self._spent.add((noun, entity.partner, entity.id))
        return entity


_HANDLERS: dict[str, Callable[[ControlState, Command, Any, Millis], Entity]] = {
    "partner.create": ControlState._partner_create,
    "partner.edit": ControlState._partner_edit,
    "source.create": ControlState._source_create,
    "source.edit": ControlState._source_edit,
    "source.remove": ControlState._source_remove,
    "source.add_key": ControlState._source_add_key,
    "source.revoke_key": ControlState._source_revoke_key,
    "event_type.create": ControlState._event_type_create,
    "event_type.edit": ControlState._event_type_edit,
    "event_type.remove": ControlState._event_type_remove,
    "segment.create": ControlState._segment_create,
    "segment.edit": ControlState._segment_edit,
    "segment.remove": ControlState._segment_remove,
    "integration.create": ControlState._integration_create,
    "integration.edit": ControlState._integration_edit,
    "integration.remove": ControlState._integration_remove,
    "rule.create": ControlState._rule_create,
    "rule.edit": ControlState._rule_edit,
    "rule.remove": ControlState._rule_remove,
    "mailing.create": ControlState._mailing_create,
    "mailing.edit": ControlState._mailing_edit,
    "mailing.remove": ControlState._mailing_remove,
    "trait.create": ControlState._trait_create,
    "trait.edit": ControlState._trait_edit,
    "trait.remove": ControlState._trait_remove,
}
