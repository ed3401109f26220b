"""The one flow of all webhooks: check who sent it, decode, answer what is no event, map the rest to raw events.

A provider is a subclass that says how it signs, what its documents look like and what it calls things; the file of
each holds nothing else.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import orjson
from pydantic import Field, ValidationError, field_validator

from pipeline.bridges.base import Answer, BridgeRequest, Door, Fault, Parsed, RawOut, Refused
from pipeline.bridges.outgoing import raw_out
from pipeline.events.mapping import MappingError, Program, compile_mapping
from pipeline.models.base import Millis, Model
from pipeline.models.control import Source
from pipeline.models.mapping import Mapping

__all__ = ["OURS", "Provider", "WebhookSettings", "decode_json", "named"]

#: What a bridge adds to the provider's document stands under this name, for mappings to read.
OURS = "headrace"
#: An id that a provider gives in a header.
_ID = re.compile(r"[A-Za-z0-9_.:=+/-]{1,200}", re.ASCII)


class WebhookSettings(Model):
    """What a source of a provider may set."""

    mapping: Mapping | None = Field(
        None, description="what a delivery becomes, in place of the provider's own mapping; try it before you save it"
    )

    @field_validator("mapping")
    @classmethod
    def _compiles(cls, mapping: Mapping | None) -> Mapping | None:
        if mapping is not None:
            try:
                compile_mapping(mapping)
            except MappingError as error:
                raise ValueError(f"{error} (at {error.path})") from None
        return mapping


class Provider(ABC):
    """A provider of webhooks. ``mapping``: what its deliveries become, unless the source has a mapping of its own.

    A provider that hears a refusal repeats, and in the end switches the webhook off; so what its own mapping does not
    know is acknowledged and not recorded (``others: ignore``).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    channel: ClassVar[str]
    mapping: ClassVar[Mapping]
    door: Door = "webhook"
    Settings: type[WebhookSettings] = WebhookSettings

    def __init__(self) -> None:
        #: By source: the settings that were compiled, and what came of it. They change when the source is edited.
        self._compiled: dict[tuple[str, str], tuple[dict[str, Any], WebhookSettings, Program]] = {}

    @abstractmethod
    def check(self, request: BridgeRequest, settings: Any, secrets: Sequence[bytes], now_ms: Millis) -> None:
        """Raises `Refused` unless one of ``secrets``, of which there is one at least, has signed ``request``."""

    @abstractmethod
    def message_id(self, request: BridgeRequest, document: Any, settings: Any) -> str:
        """The delivery's id, the same when it is repeated. Raises `Refused` where there is none."""

    def document(self, request: BridgeRequest, settings: Any) -> Any:
        """What the mapping reads. Raises `Refused`."""
        return decode_json(request.body)

    def handshake(self, request: BridgeRequest, document: Any) -> Parsed | None:
        """The answer to what is no event (a challenge, a ping); None where it is one."""
        return None

    def answer(self, document: Any) -> Answer | None:
        """What the provider wants to hear of an event, where that is not our own JSON."""
        return None

    def parse(self, request: BridgeRequest, source: Source, secrets: Sequence[bytes], now_ms: Millis) -> Parsed:
        """The events of a delivery. Raises `Refused`: 403 without a secret, 401 for a wrong signature, 400."""
        settings, program = self._settings(source)
        if not any(secrets):
            raise Refused(403, "no_secret", f"source {source.id} has no secret; set the one that the sender uses")
        self.check(request, settings, secrets, now_ms)
        document = self.document(request, settings)
        handled = self.handshake(request, document)
        if handled is not None:
            return handled
        made = _mapped(program, document, request)
        events, faults = _records(made, source, self.message_id(request, document, settings))
        return Parsed(events, faults, self.answer(document))

    def sample(self, request: BridgeRequest, source: Source, mapping: Mapping | None = None) -> Parsed:
        """What `parse` makes of ``request`` by ``mapping``, or by the source's, whoever signed it. Raises `Refused`."""
        settings, program = self._settings(source)
        if mapping is not None:
            program = compile_mapping(mapping)
        document = self.document(request, settings)
        handled = self.handshake(request, document)
        if handled is not None:
            return handled
        try:
            name = self.message_id(request, document, settings)
        except Refused:
            name = "sample"
        return Parsed(*_records(_mapped(program, document, request), source, name), self.answer(document))

    def _settings(self, source: Source) -> tuple[Any, Program]:
        place = (source.partner, source.id)
        there = self._compiled.get(place)
        if there is None or there[0] is not source.settings:
            try:
                settings = self.Settings.model_validate(source.settings)
            except ValidationError as error:
                raise Refused(403, "bad_settings", f"the settings of source {source.id} are wrong: {error}") from None
            program = compile_mapping(settings.mapping) if settings.mapping is not None else self._own
            there = self._compiled[place] = (source.settings, settings, program)
        return there[1], there[2]

    @cached_property
    def _own(self) -> Program:
        return compile_mapping(self.mapping)


def decode_json(body: bytes) -> Any:
    """An object or a list. Raises `Refused` 400."""
    try:
        document = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise Refused(400, "not_json", f"the body is not UTF-8 JSON: {error}") from None
    if not isinstance(document, dict | list):
        raise Refused(400, "not_an_object", "the body must be a JSON object, or a list of them", "$")
    return document


def named(value: Any, what: str, path: str | None = None) -> str:
    """``value`` as the id of a delivery. Raises `Refused` 400; ``what`` names it for people."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise Refused(400, "shape", f"{what} is missing or no id", path)
    return value


def _mapped(program: Program, document: Any, request: BridgeRequest) -> list[dict[str, Any]]:
    try:
        return program(document, request.headers)
    except MappingError as error:
        raise Refused(400, "mapping", f"{error}; mend the source's mapping", error.path) from None
    except RecursionError:
        raise Refused(400, "not_json", "nested too deeply", "$") from None


def _records(made: Sequence[dict[str, Any]], source: Source, name: str) -> tuple[list[RawOut], list[Fault]]:
    """The records of a delivery's events; of several, the good ones go in."""
    if len(made) == 1:
        return [raw_out(made[0], source, name)], []
    events: list[RawOut] = []
    faults: list[Fault] = []
    for index, event in enumerate(made):
        try:
            events.append(raw_out(event, source, f"{name}#{index}"))
        except Refused as no:
            faults.append(Fault(index, no.code, no.message, no.path))
    return events, faults
