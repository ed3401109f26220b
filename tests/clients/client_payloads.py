"""What the calls of all clients carry."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

__all__ = ["CONTEXT", "NO_NULLS", "RICH", "STAMP", "WHEN"]

#: What a JSON document can hold.
RICH: dict[str, Any] = {
    "category": "Jacket",
    "price": 89.95,
    "count": 3,
    "large": 9007199254740991,
    "tags": ["a", "b"],
    "deep": {"list": [1, {"none": None}], "on": True},
    "text": "é😀\u2028</script>",
}
#: The same, as a client leaves it that takes nulls out.
NO_NULLS: dict[str, Any] = {**RICH, "deep": {"list": [1, {}], "on": True}}
#: A time that is given, and as text.
WHEN = datetime(2026, 1, 31, 12, 0, 0, 250_000, UTC)
STAMP = "2026-01-31T12:00:00.250Z"
CONTEXT: dict[str, Any] = {"ip": "198.51.100.7", "app": {"name": "Till", "version": "1.2"}}
