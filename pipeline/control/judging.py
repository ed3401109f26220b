"""What the reducer's verdicts need: commands read, refusals, versions."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

import orjson
from pydantic import ValidationError

from pipeline.control.faults import MAX_NESTING, fault, too_deep
from pipeline.models.base import Millis, Model
from pipeline.models.control import (
    Command,
    Entity,
    Integration,
    Mailing,
    Partner,
    PartnerEventType,
    Rule,
    Segment,
    Source,
    Trait,
)

__all__ = ["Refused", "changes_of", "document_of", "edited", "expected", "fields", "parse", "refuse"]

_Parsed = TypeVar("_Parsed", bound=Model)
_Versioned = TypeVar("_Versioned", Partner, Source, Segment, Integration, Rule, Mailing, PartnerEventType, Trait)


class Refused(Exception):
    """A command that changes nothing; raised before any change."""

    def __init__(self, status: int, code: str, detail: str, path: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.path = status, code, detail, path


def refuse(status: int, code: str, detail: str, path: str | None = None) -> NoReturn:
    """Raise `Refused`."""
    raise Refused(status, code, detail, path)


def document_of(value: bytes) -> dict[str, Any]:
    """The JSON object of a record. Raises `Refused`."""
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        refuse(400, "malformed", f"no UTF-8 JSON: {error}", "$")
    if not isinstance(document, dict):
        refuse(400, "malformed", "a command is one JSON object", "$")
    if too_deep(document):
        refuse(400, "malformed", f"nested deeper than {MAX_NESTING} levels", "$")
    return document


def parse(model: type[_Parsed], value: dict[str, Any], root: str) -> _Parsed:
    """The model of ``value``, which lies at ``root`` in the command. Raises `Refused`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        path, message = fault(error, value, root)
        refuse(400, "invalid", message, path)


def expected(command: Command, entity: Entity) -> None:
    """The command was made on the version that there is. Raises `Refused`."""
    if command.expect is None:
        refuse(400, "expect_missing", "say in `expect` which version the change was made on", "$.expect")
    if command.expect != entity.version:
        detail = f"made on version {command.expect}, but it is at {entity.version} now; read it again"
        refuse(409, "stale", detail, "$.expect")


def fields(data: Model) -> dict[str, Any]:
    """Those of a model by their names, as they are."""
    return {name: getattr(data, name) for name in type(data).model_fields}


def changes_of(data: Model) -> dict[str, Any]:
    """The fields that an edit sets; null is the same as left out."""
    return {name: value for name, value in fields(data).items() if value is not None}


def edited(entity: _Versioned, changed: dict[str, Any], now: Millis) -> _Versioned:
    """The next version, or the same if nothing changes. JSON tells 1, 1.0 and true apart, `==` does not."""
    after = entity.model_copy(update=changed)
    if after.to_json() == entity.to_json():
        return entity
    return after.model_copy(update={"version": entity.version + 1, "updated": now})
