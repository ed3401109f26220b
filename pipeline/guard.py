"""Which addresses we connect to at the word of a tenant (SSRF): sinks, and feeds that fetch.

Public ones, and what the operator allows besides (``HEADRACE_ALLOW_NETWORKS``). What was checked is what is connected
to, so a name that changes its mind between the two gains nothing.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

__all__ = ["BadName", "ForbiddenAddress", "Guard"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: IANA's special-purpose registry for IPv4; one more than its "not globally reachable": 6to4 relays.
_REFUSED_4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
#: Of IPv6 only global unicast is let through; loopback, mapped, NAT64, ULA, link-local, multicast lie outside.
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
#: Inside it: IETF protocols (Teredo, benchmarking, ORCHID), documentation, 6to4.
_REFUSED_6 = tuple(ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))


class ForbiddenAddress(OSError):
    """An address that we may not reach."""

    def __init__(self, host: str, address: str) -> None:
        shown = host if host == address else f"{host} ({address})"
        super().__init__(
            errno.EACCES,
            f"{shown} is no public address; if it is yours, allow its network with HEADRACE_ALLOW_NETWORKS",
        )


class BadName(Exception):
    """A name that no host can have: DNS has no form for it."""


class Guard:
    """The rule, and the socket factory that holds to it.

    ``allowed``: networks that may be reached all the same (`Settings.allow_networks`: ``10.1.0.0/16,::1/128``).
    Raises ValueError, naming the wrong one.
    """

    def __init__(self, allowed: str = "") -> None:
        self._allowed: list[_Network] = []
        for text in filter(None, (part.strip() for part in allowed.split(","))):
            try:
                self._allowed.append(ipaddress.ip_network(text))
            except ValueError as error:
                raise ValueError(f"HEADRACE_ALLOW_NETWORKS: {error}; write networks as 10.1.0.0/16") from None

    def allows(self, address: str) -> bool:
        """Whether we may connect to this IP address; what is no IP address is refused."""
        try:
            found: _Address = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if any(found in network for network in self._allowed):
            return True
        if isinstance(found, ipaddress.IPv4Address):
            return not any(found in network for network in _REFUSED_4)
        return found in _GLOBAL_6 and not any(found in network for network in _REFUSED_6)

    def check(self, host: str, address: str) -> None:
        """Raises ForbiddenAddress unless `allows`."""
        if not self.allows(address):
            raise ForbiddenAddress(host, address)

    def resolve(self, host: str, port: int) -> list[tuple[Any, ...]]:
        """What `socket.getaddrinfo` finds, every address checked. Blocks. Raises ForbiddenAddress, BadName, OSError."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise BadName(host) from None
        for *_, address in found:
            self.check(host, str(address[0]))
        return found

    def dial(self, host: str, port: int, timeout: float) -> socket.socket:
        """A connection to the first of the host's addresses that answers. Blocks. Raises as `resolve`."""
        failure: OSError = OSError(f"{host} has no address")
        for family, kind, protocol, _, address in self.resolve(host, port):
            made = socket.socket(family, kind, protocol)
            made.settimeout(timeout)
            try:
                made.connect(address)
            except OSError as error:
                made.close()
                failure = error
            else:
                return made
        raise failure

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        """aiohttp's socket factory: the last gate before a connection. Raises ForbiddenAddress."""
        family, kind, protocol, _, address = info
        self.check(str(address[0]), str(address[0]))
        return socket.socket(family=family, type=kind, proto=protocol)
