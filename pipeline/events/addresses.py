"""Addresses by a source's policy: kept, cut to a network, or removed."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network
from typing import Literal

__all__ = ["kept_address"]


def kept_address(text: str | None, policy: Literal["keep", "cut", "remove"]) -> str | None:
    """What of an address may be written. ``cut``: the last octet is 0, of IPv6 all but /48; no address: nothing."""
    if text is None or policy == "keep":
        return text
    if policy == "remove":
        return None
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    if not isinstance(address, IPv4Address):
        if address.ipv4_mapped is None:
            return str(ip_network((int(address), 48), strict=False).network_address)
        address = address.ipv4_mapped
    return str(ip_network((address, 24), strict=False).network_address)
