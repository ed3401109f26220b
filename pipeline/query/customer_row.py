"""What tables read of a row of `customers`: a customer, or a redirect to one."""

from __future__ import annotations

import msgspec

__all__ = ["CustomerRow", "customer_row"]


class _Membership(msgspec.Struct, gc=False):
    version: int
    since: int
    scopes: list[str]


class CustomerRow(msgspec.Struct, gc=False):
    """One with a ``redirect`` has nothing else but ``since``."""

    id: str = ""
    partner: str = ""
    identifiers: list[str] = []
    traits: msgspec.Raw = msgspec.Raw(b"{}")
    segments: dict[str, _Membership] = {}
    first_seen: int = 0
    last_seen: int = 0
    redirect: str | None = None
    since: int = 0


#: Of a value. Raises msgspec.DecodeError.
customer_row = msgspec.json.Decoder(CustomerRow).decode
