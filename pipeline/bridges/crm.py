"""Customers from a CRM: upserts by REST, and rows of uploaded files, as identify events.

What a row or an object becomes: its columns by name, or the source's declared mapping (`models.mapping`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import orjson
from pydantic import BaseModel, Field, ValidationError, model_validator

from pipeline.bridges.base import BridgeRequest, Door, Fault, Parsed, RawOut, Refused
from pipeline.bridges.outgoing import raw_out
from pipeline.events.mapping import MappingError, compile_mapping
from pipeline.models.base import Millis
from pipeline.models.control import Source
from pipeline.models.mapping import Mapping as Declared

__all__ = ["MAX_CUSTOMERS", "MAX_CUSTOMER_BYTES", "CrmBridge", "Rows", "read_customers"]

MAX_CUSTOMERS = 2500
MAX_CUSTOMER_BYTES = 32 * 1024

#: What a column may be called, in lower case, spaces and hyphens as ``_``.
_FIELDS = {
    **dict.fromkeys(("id", "user_id", "userid", "customer_id", "customerid"), "id"),
    **dict.fromkeys(("email", "e_mail", "email_address"), "email"),
    **dict.fromkeys(("phone", "phone_number", "telephone", "mobile"), "phone"),
    "name": "name",
    "timestamp": "timestamp",
    "traits": "traits",
}
_GAP = re.compile(r"[\s-]+")
#: Paths into the event -> what its sender calls the place.
_PLACES = {"$.userId": "id", "$.timestamp": "timestamp", "$.traits.email": "email", "$.traits.phone": "phone"}


class Settings(BaseModel):
    """Of a source whose bridge is `crm`."""

    model_config = {"extra": "forbid"}

    columns: dict[str, str] = Field(
        default_factory=dict,
        description="column -> `id`, `email`, `phone`, `name`, `timestamp` or the name of a trait; `` leaves it out",
    )
    mapping: Declared | None = Field(None, description="what a row becomes, in place of `columns`")

    @model_validator(mode="after")
    def _one(self) -> Settings:
        if self.mapping is not None and self.columns:
            raise ValueError("give `columns` or `mapping`, not both")
        if self.mapping is not None:
            compile_mapping(self.mapping)
        return self


class Rows:
    """What the rows of one source become; its settings are taken apart once. Raises `Refused` for wrong ones."""

    def __init__(self, source: Source) -> None:
        try:
            settings = Settings.model_validate(source.settings)
        except ValidationError as error:  # saved for another bridge, or by an older version
            raise Refused(403, "bad_settings", f"the settings of source {source.id} are none of bridge crm") from error
        self._source = source
        self._make: Callable[[Mapping[str, Any]], list[dict[str, Any]]]
        if settings.mapping is not None:
            program = compile_mapping(settings.mapping)
            self._make = lambda row: program(row, {})
        else:
            named = settings.columns
            self._make = lambda row: [_customer(row, named)]

    def events(self, row: Any, message_id: str) -> list[RawOut]:
        """The events of ``row``, a JSON object; `Refused` with a column, or a path, where it is none of a customer."""
        if not isinstance(row, dict):
            raise Refused(400, "not_an_object", "a customer is a JSON object")
        try:
            made = self._make(row)
        except MappingError as error:
            raise Refused(400, "mapping", str(error), error.path) from None
        except RecursionError:
            raise Refused(400, "not_json", "nested too deeply") from None
        found = []
        for number, event in enumerate(made):
            name = message_id if len(made) == 1 else f"{message_id}:{number}"
            try:
                out = raw_out(event, self._source, name)
            except Refused as no:
                raise Refused(no.status, no.code, _people(no), _PLACES.get(no.path or "", no.path)) from None
            if len(out.value) > MAX_CUSTOMER_BYTES:
                raise Refused(413, "too_large", f"{len(out.value)} bytes; a customer has at most {MAX_CUSTOMER_BYTES}")
            found.append(out)
        return found


def _people(no: Refused) -> str:
    return "no `id`, `email` or `phone`: nothing says who it is" if no.code == "no_identity" else no.message


def _customer(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """An identify event. Empty cells say nothing.

    Of two columns for one field, the one of its very name is it, else the first; the other is a trait.
    """
    found: dict[str, Any] = {}
    traits: dict[str, Any] = {}
    more: dict[str, Any] = {}
    others: list[tuple[str, str, Any]] = []
    for column, value in row.items():
        if value is None or value == "":
            continue
        if isinstance(value, str):
            value = value.strip()
        field = columns.get(column)
        if field is None:
            field = _FIELDS.get(_GAP.sub("_", column.strip().lower()), column)
        if field == "":
            continue
        if field == "traits":
            if not isinstance(value, dict):
                raise Refused(400, "shape", "`traits` must be an object", column)
            more = value
        elif field in ("id", "timestamp") and field not in found:
            found[field] = value
        elif field == column:
            traits[field] = value
        else:
            others.append((field, column, value))
    for field, column, value in others:
        traits.setdefault(field if field not in traits else column, value)
    traits = more | traits
    for contact in ("email", "phone"):
        if contact in traits and not isinstance(traits[contact], str):
            raise Refused(400, "shape", f"`{contact}` must be text", contact)
    event: dict[str, Any] = {"type": "identify", "traits": traits}
    if "id" in found:
        event["userId"] = found["id"]
    if "timestamp" in found:
        event["timestamp"] = found["timestamp"]
    return event


def read_customers(body: bytes) -> list[Any]:
    """The customers of a request: one object, or an array of them. Raises `Refused`."""
    if not body.strip():
        raise Refused(400, "empty", "the body is empty; send a customer or an array of customers as JSON")
    try:
        document = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise Refused(400, "not_json", f"the body is not UTF-8 JSON: {error}") from None
    customers = document if isinstance(document, list) else [document]
    if len(customers) > MAX_CUSTOMERS:
        raise Refused(413, "too_large", f"{len(customers)} customers; at most {MAX_CUSTOMERS} a request", "$")
    return customers


class CrmBridge:
    """A repeat of a request is harmless: an upsert says what is, and the newest stays."""

    name = "crm"
    title = "CRM: customers by REST, and files of them"
    door: Door = "server"
    channel = "CRM"
    Settings = Settings

    def parse(self, request: BridgeRequest, source: Source, secrets: Sequence[bytes], now_ms: Millis) -> Parsed:
        """The customers of a body (kind ``customers``). The header Idempotency-Key makes the message ids."""
        customers = read_customers(request.body)
        rows = Rows(source)
        key = request.headers.get("idempotency-key", "")[:64] or uuid4().hex
        events: list[RawOut] = []
        faults: list[Fault] = []
        for index, ids in _ids(customers, key):
            try:
                events += rows.events(customers[index], ids)
            except Refused as no:
                faults.append(Fault(index, no.code, no.message, no.path))
        return Parsed(events, faults)


def _ids(customers: Sequence[Any], key: str) -> Iterable[tuple[int, str]]:
    return ((index, f"{key}:{index}") for index in range(len(customers)))
