"""A mapping read from JSON, of which each value is decoded when somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, TypeVar

import msgspec

__all__ = ["Lazy"]

T = TypeVar("T")


class Lazy(MutableMapping[str, T]):
    """As a dict, in the order of the JSON. An event looks at one leaf of a customer and at two memberships, not at all.

    Looking at a value raises msgspec.DecodeError where it is not what ``decoder`` takes; that it is JSON is known.
    """

    __slots__ = ("_decode", "_raw", "_read")

    def __init__(self, decoder: msgspec.json.Decoder[T], raw: dict[str, msgspec.Raw] | None = None) -> None:
        self._decode = decoder.decode
        #: What was there; a value that was looked at stays here too, and `_read` counts.
        self._raw: dict[str, msgspec.Raw] = {} if raw is None else raw
        self._read: dict[str, T] = {}

    def wire(self) -> dict[str, Any]:
        """What stands for it in the encoded form."""
        return {**self._raw, **self._read}

    def get(self, key: str, default: T | None = None) -> T | None:  # type: ignore[override]
        value = self._read.get(key)
        if value is not None:
            return value
        raw = self._raw.get(key)
        if raw is None:
            return default
        value = self._read[key] = self._decode(raw)
        return value

    def __getitem__(self, key: str) -> T:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: T) -> None:
        self._read[key] = value

    def __delitem__(self, key: str) -> None:
        known = self._raw.pop(key, None) is not None
        if self._read.pop(key, None) is None and not known:
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return key in self._read or key in self._raw

    def __iter__(self) -> Iterator[str]:
        yield from self._raw
        for key in self._read:
            if key not in self._raw:
                yield key

    def __len__(self) -> int:
        return len(self._raw.keys() | self._read.keys()) if self._raw else len(self._read)

    def __repr__(self) -> str:
        return repr(dict(self))
