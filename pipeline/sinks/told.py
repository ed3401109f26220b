"""What a tool is told of one event, in the terms that tools share: the preset mapping, and what a rule changes of it.

A mapping is field -> expression (the language of `models.mapping`), read over the document ``{"event", "customer",
"rule", "name", "id"}`` of a dispatch record. The integration's own stands before the preset, the rule's before both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import orjson
from pydantic import TypeAdapter

from pipeline.events.mapping import MappingError, compile_expression
from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.models.mapping import Expression

__all__ = ["FIELDS", "Field", "Told", "check_mapping", "document_of", "tell"]

Field = Literal[
    "id", "name", "time", "customer_id", "email", "phone", "first_name", "last_name", "value", "currency", "properties"
]
#: Fields that a mapping may set.
FIELDS: tuple[Field, ...] = get_args(Field)
#: Where the value of an event is looked for, in this order.
_VALUES = ("value", "revenue", "total", "amount")

_Read = Callable[[Any, Mapping[str, str]], Any]
_expression: TypeAdapter[Expression] = TypeAdapter(Expression)


@dataclass(frozen=True, slots=True)
class Told:
    """One event for a tool.

    ``id``: the dedup key, the same on every attempt and replay, 32 hex digits unless a mapping says another.
    ``name``: the event's, the rule's prefix before it. ``time``: ms since 1970. ``customer_id``: the user id, where
    there is none the anonymous id, else the canonical id. ``value``: what it is worth, in ``currency``.
    ``test``: somebody tries the rule. ``replayed``: told again or late; a tool that can must not act on it as news.
    """

    id: str
    name: str
    time: Millis
    customer_id: str
    user_id: str | None = None
    anonymous_id: str | None = None
    email: str | None = None
    phone: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    value: float | int | None = None
    currency: str | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    traits: dict[str, Any] = field(default_factory=dict)
    test: bool = False
    replayed: bool = False

    def known_as(self, selector: Literal["email", "phone"]) -> str | None:
        """For tools that know a customer by one text: user id, else e-mail or phone, that of ``selector`` first."""
        first, second = (self.phone, self.email) if selector == "phone" else (self.email, self.phone)
        return self.user_id or first or second


def tell(dispatch: Dispatch, mapping: Mapping[str, Any] | None = None) -> Told:
    """The preset of ``dispatch``, changed by ``mapping`` (the integration's) and by the record's own (the rule's).

    Raises ValueError for what no tool can be told: a mapped field of another type, an identifier that is missing.
    """
    told = _preset(dispatch)
    changes = {**(mapping or {}), **dispatch.mapping}
    if not changes:
        return told
    document = document_of(dispatch)
    values = {name: _value(name, expression, document) for name, expression in changes.items()}
    return replace(told, **values)


def document_of(dispatch: Dispatch) -> dict[str, Any]:
    """What expressions of mappings and templates are read over."""
    return {
        "event": dispatch.event,
        "customer": dispatch.customer,
        "rule": dispatch.rule,
        "name": dispatch.name,
        "id": dispatch.id,
    }


def check_mapping(mapping: Mapping[str, Any], where: str = "$.mapping") -> None:
    """Raises `MappingError`, with the path, for a field that there is not or an expression that can't be read."""
    for name, expression in mapping.items():
        if name not in FIELDS:
            raise MappingError(f"no field {name!r}; one of {', '.join(FIELDS)}", f"{where}.{name}")
        if isinstance(expression, dict) and name == "properties" and "path" not in expression:
            for key, inner in expression.items():
                _compile(inner, f"{where}.{name}.{key}")
        else:
            _compile(expression, f"{where}.{name}")


def _preset(dispatch: Dispatch) -> Told:
    event, customer = dispatch.event, dispatch.customer
    properties = event.get("properties") or {}
    traits = customer.get("traits") or {}
    user, anonymous = customer.get("user_id"), customer.get("anonymous_id")
    return Told(
        id=dispatch.id,
        name=dispatch.name,
        time=event.get("time", dispatch.created),
        customer_id=user or anonymous or str(customer.get("id", "")),
        user_id=user,
        anonymous_id=anonymous,
        email=customer.get("email") or _text(traits, "email"),
        phone=customer.get("phone") or _text(traits, "phone"),
        first_name=_text(traits, "first_name", "firstName"),
        last_name=_text(traits, "last_name", "lastName"),
        value=next((v for v in map(properties.get, _VALUES) if _is_number(v)), None),
        currency=_text(properties, "currency"),
        properties=properties,
        traits=traits,
        test=dispatch.test,
        replayed=dispatch.replayed,
    )


def _value(name: str, expression: Any, document: dict[str, Any]) -> Any:
    if name == "properties" and isinstance(expression, dict) and "path" not in expression:
        made = {key: _read(inner)(document, {}) for key, inner in expression.items()}
        return {key: value for key, value in made.items() if value is not None}
    found = _read(expression)(document, {})
    if name == "properties":
        return found if isinstance(found, dict) else _wrong(name, "an object")
    if name == "time":
        return found if type(found) is int else _wrong(name, "milliseconds since 1970")
    if name == "value":
        return found if found is None or _is_number(found) else _wrong(name, "a number")
    if found is None and name in ("id", "name", "customer_id"):
        return _wrong(name, "there")
    return None if found is None else found if isinstance(found, str) else str(found)


def _wrong(name: str, wanted: str) -> Any:
    raise ValueError(f"the mapped field {name!r} is not {wanted}; mend the rule's or the integration's mapping")


def _read(expression: Any) -> _Read:
    return _compiled(orjson.dumps(expression))


@lru_cache(4096)
def _compiled(text: bytes) -> _Read:
    return _compile(orjson.loads(text), "$.mapping")


def _compile(expression: Any, where: str) -> _Read:
    try:
        parsed = _expression.validate_python(expression)
    except ValueError as error:
        raise MappingError(f"no expression: {error}", where) from None
    return compile_expression(parsed, where)


def _text(values: Mapping[str, Any], *names: str) -> str | None:
    return next((v for v in map(values.get, names) if isinstance(v, str) and v), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
