"""What every model shares: strictness, identifiers, JSON."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, StringConstraints

__all__ = ["Code", "Json", "Label", "Millis", "Model", "Slug", "dumps"]

#: An immutable identifier; it stands in topic names, so it has no dot and no upper case.
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?$")]
#: An editable source code, unique in its partner; the key a client passes is ``<partner-id>.<code>``.
Code = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62}[A-Za-z0-9])?$")]
#: A name for people: any script, 1 to 200 characters.
Label = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
#: Milliseconds since 1970-01-01T00:00:00Z.
Millis = int
Json = Any


class Model(BaseModel):
    """A frozen model that refuses unknown fields; ``model_dump`` gives plain JSON types."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def to_json(self) -> bytes:
        """The model as UTF-8 JSON, defaults included, aliases as the wire names them."""
        return orjson.dumps(self.model_dump(mode="json", by_alias=True))


def dumps(value: Json) -> bytes:
    """UTF-8 JSON of plain values, keys sorted: equal values give equal bytes (hashes depend on it)."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
