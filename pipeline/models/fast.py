"""A fast validated decode, generated from the Pydantic models, for the hot path (docs/architecture.md, "Speed").

``msgspec`` decodes 1 KB of JSON into a struct in about a microsecond, with the same strictness and with the
path of the fault in its errors. Fields named in ``raw`` are checked to be JSON and passed on untouched.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import msgspec
from pydantic import BaseModel
from pydantic.fields import FieldInfo

__all__ = ["NULL", "struct_for"]

#: What a ``raw`` field that is missing holds; the very object, so ``is`` tells it.
NULL = msgspec.Raw(b"null")


def struct_for(
    model: type[BaseModel], *, raw: frozenset[str] = frozenset(), unset: frozenset[str] = frozenset()
) -> type[Any]:
    """A ``msgspec.Struct`` type with the fields, types, defaults and length limits of ``model``.

    Unknown fields are ignored; fields in ``raw`` become ``msgspec.Raw``, `NULL` when
    missing; encoding leaves defaults out. Optional fields in ``unset`` are ``msgspec.UNSET`` when missing, which tells
    that from their default.
    Raises TypeError for an annotation that has no equivalent.
    """
    fields: list[Any] = []
    for name, info in model.model_fields.items():
        alias = info.alias or name
        if name in raw:
            fields.append((alias, msgspec.Raw, NULL))
            continue
        kind = _convert(_annotated(info))
        if name in unset:
            fields.append((alias, Union[kind, msgspec.UnsetType], msgspec.UNSET))  # noqa: UP007
        elif info.is_required():
            fields.append((alias, kind))
        elif info.default_factory is not None:
            fields.append((alias, kind, msgspec.field(default_factory=info.default_factory)))  # type: ignore[arg-type]
        else:
            fields.append((alias, kind, info.default))
    return msgspec.defstruct(
        model.__name__ + "Fast",
        sorted(fields, key=lambda field: len(field) == 3),
        omit_defaults=True,
        kw_only=True,
        gc=False,
        module=model.__module__,
    )


def _annotated(info: FieldInfo) -> Any:
    kind: Any = info.annotation
    for item in info.metadata:
        kind = Annotated[kind, item]
    return kind


def _convert(kind: Any) -> Any:
    origin = get_origin(kind)
    if origin is Annotated:
        base, *metadata = get_args(kind)
        flat = [m for item in metadata for m in (item.metadata if isinstance(item, FieldInfo) else [item])]
        limits = [m.max_length for m in flat if isinstance(m, annotated_types.MaxLen)]
        if not limits:
            return _convert(base)
        meta = msgspec.Meta(max_length=min(limits))
        members = get_args(base) if get_origin(base) in (Union, types.UnionType) else (base,)
        return Union[tuple(Annotated[str, meta] if m is str else _convert(m) for m in members)]  # noqa: UP007
    if origin in (Union, types.UnionType):
        return Union[tuple(_convert(member) for member in get_args(kind))]  # noqa: UP007
    if origin is Literal or kind in (str, int, float, bool, type(None), Any):
        return kind
    if origin in (list, dict, tuple):
        return origin[tuple(_convert(member) for member in get_args(kind))]
    raise TypeError(f"no fast equivalent of {kind!r}")
