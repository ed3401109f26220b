"""A source's policy, compiled: what its records become before they are judged, and which events it takes. Pure."""

from __future__ import annotations

from typing import Any

import jsonschema_rs

from pipeline.events.event_types import EventTypes
from pipeline.events.mapping import MappingError, Program, compile_mapping
from pipeline.events.verdicts import RejectError
from pipeline.models.control import Source
from pipeline.models.policy import Policy

__all__ = ["PolicyError", "Rules", "check_policy"]

_MAX_DETAIL = 300
#: Of a payload schema, compiled; a pattern may ask for more than it is worth.
_MAX_PATTERN_BYTES = 1_000_000


class PolicyError(ValueError):
    """A policy that can't be compiled; ``path``: where in it."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


class Rules:
    """Of one source, made once per change of it.

    ``fault``: why the policy can't be read (the API saves none such; another writer of the log may): then every
    record is rejected. ``program``: its mapping. ``guarded``: consent changes what is kept; ``cut``: not all of an
    address is; ``transient``: `history` never has it. ``pages``: its events come from browsers.
    """

    __slots__ = (
        "_names",
        "_types",
        "_validator",
        "cut",
        "fault",
        "guarded",
        "pages",
        "program",
        "source",
        "strict",
        "transient",
    )

    def __init__(self, source: Source, types: EventTypes | None = None) -> None:
        policy = source.policy
        self.source = source
        self.fault: str | None = None
        self.program: Program | None = None
        self._validator: Any = None
        self._names = frozenset(policy.events) if policy.events else None
        self._types = types if policy.accepts == "catalogue" else None
        self.guarded = policy.gpc != "keep"
        self.pages = source.bridge == "js"
        self.cut = policy.ip != "keep"
        self.transient = policy.transient
        try:
            self.program = _mapping(policy)
            self._validator = _payload(policy)
        except PolicyError as error:
            self.fault = f"{error} (at {error.path})"
        if policy.accepts == "catalogue" and types is None:
            self.fault = "no catalogue at hand"
        #: Whether there is more to ask of an event than the raw contract does.
        self.strict = any(each is not None for each in (self._names, self._types, self._validator))

    @property
    def plain(self) -> bool:
        """Whether its records are the events themselves, whoever sent them."""
        return self.program is None and not self.guarded

    @property
    def whole(self) -> bool:
        """Whether `check` wants the whole event."""
        return self._validator is not None

    def check(self, name: str, properties: dict[str, Any] | None, event: Any) -> None:
        """Raises RejectError for an event that the source does not take. ``event``: the raw one, where `whole`."""
        if self._names is not None and name not in self._names:
            some = ", ".join(map(repr, sorted(self._names)[:10])) + (", …" if len(self._names) > 10 else "")
            raise RejectError("event_not_allowed", f"{name[:80]!r} is none of the events it takes: {some}", "$.event")
        if self._types is not None:
            self._types.check(name, properties)
        if self._validator is not None:
            error = next(self._validator.iter_errors(event), None)
            if error is not None:
                raise RejectError("payload", error.message[:_MAX_DETAIL], _path(error.instance_path))


def check_policy(policy: Policy) -> None:
    """Raises `PolicyError` for a mapping or a payload schema that intake could not read."""
    _mapping(policy)
    _payload(policy)


def _mapping(policy: Policy) -> Program | None:
    if policy.mapping is None:
        return None
    try:
        return compile_mapping(policy.mapping)
    except MappingError as error:
        raise PolicyError(str(error), f"$.mapping{error.path[1:]}") from None


def _payload(policy: Policy) -> Any:
    if policy.payload is None:
        return None
    try:
        return jsonschema_rs.Draft202012Validator(
            policy.payload,
            validate_formats=True,
            # Linear in time, whatever the pattern; and nothing is fetched from anywhere.
            pattern_options=jsonschema_rs.RegexOptions(size_limit=_MAX_PATTERN_BYTES),
            retriever=_nowhere,
        )
    except jsonschema_rs.ValidationError as error:
        path = _path(error.instance_path)
        raise PolicyError(f"no JSON Schema: {error.message[:_MAX_DETAIL]}", f"$.payload{path[1:]}") from None
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise PolicyError(f"no JSON Schema: {str(error)[:_MAX_DETAIL]}", "$.payload") from None


def _nowhere(uri: str) -> Any:
    raise ValueError("a payload schema can't refer to another document; put it under `$defs`")


def _path(steps: list[str | int]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
