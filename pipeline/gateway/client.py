"""Who is at the other end of a request: address (behind proxies that we trust), user agent, page, wishes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal, NamedTuple

from starlette.requests import Request

from pipeline.gateway.origin import origin_of
from pipeline.models.control import Source
from pipeline.settings import Settings

__all__ = ["Client", "Proxies", "public_url"]

#: Of a user agent; longer ones are cut.
_UA = 512
_IpPolicy = Literal["keep", "cut", "remove"]
_STRICTNESS: dict[str, int] = {"keep": 0, "cut": 1, "remove": 2}
#: What clients may write in X-IP-Policy (Jitsu's words too).
_WORDS: dict[str, _IpPolicy] = {
    "keep": "keep",
    "cut": "cut",
    "remove_last_octet": "cut",
    "strip_last_octet": "cut",
    "striplastoctet": "cut",
    "remove": "remove",
}


class Proxies:
    """Addresses whose X-Forwarded-For and X-Forwarded-Proto are believed. Raises ValueError for what is no CIDR."""

    def __init__(self, listed: str) -> None:
        self._any = listed.strip() == "*"
        self._networks: list[IPv4Network | IPv6Network] = []
        for text in () if self._any else listed.split(","):
            try:
                if text.strip():
                    self._networks.append(ip_network(text.strip(), strict=False))
            except ValueError as error:
                raise ValueError(f"HEADRACE_TRUSTED_PROXIES: {text.strip()!r} is no address or network") from error
        self._trusts = lru_cache(maxsize=4096)(self._look)

    def _look(self, text: str) -> bool:
        if self._any:
            return True
        try:
            address = ip_address(text)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def address(self, peer: str | None, forwarded: str | None) -> str | None:
        """The client's: ``peer``, or where that is a trusted proxy the last one named that is none."""
        if not forwarded or peer is None or not self._trusts(peer):
            return peer
        found = peer
        for hop in reversed(forwarded[:2000].split(",")):
            named = hop.strip()
            try:
                found = str(ip_address(named))
            except ValueError:
                break  # what is no address vouches for nothing before it
            if not self._trusts(found):
                break
        return found

    def secure(self, peer: str | None, scheme: str, forwarded: str | None) -> bool:
        """Whether the client came by HTTPS, by the word of a trusted proxy where there is one."""
        if forwarded and peer is not None and self._trusts(peer):
            return forwarded.split(",")[0].strip().lower() == "https"
        return scheme == "https"


class Client(NamedTuple):
    """Address, user agent, the origin of the page, each if known; ``gpc``: it sent Sec-GPC: 1; ``key``: the id of the
    secret key that it used.
    """

    ip: str | None
    ua: str | None
    origin: str | None
    gpc: bool = False
    key: str | None = None

    @classmethod
    def of(cls, request: Request, source: Source | None = None) -> Client:
        """As the request says it; behind a trusted proxy the server has put the client's address in already."""
        peer = request.client.host if request.client else None
        return cls.read(request.headers, peer, source)

    @classmethod
    def read(
        cls, headers: Mapping[str, str], ip: str | None, source: Source | None = None, key: str | None = None
    ) -> Client:
        """``ip``: the client's address; what is kept of it is said by the source's policy, and by X-IP-Policy where
        that is stricter.
        """
        ua = headers.get("user-agent")
        if ua and len(ua) > _UA:
            ua = ua[:_UA]
        if ip is not None and source is not None:
            policy = source.policy.ip
            wish = headers.get("x-ip-policy")
            if wish:
                policy = max(policy, _WORDS.get(wish.strip().lower(), "keep"), key=_STRICTNESS.__getitem__)
            if policy != "keep":
                ip = _kept(ip, policy)
        return cls(ip, ua or None, origin_of(headers), headers.get("sec-gpc") == "1", key)


def _kept(ip: str, policy: _IpPolicy) -> str | None:
    """``cut``: an IPv4 address loses its last octet, an IPv6 address all but its first 48 bits."""
    if policy == "remove":
        return None
    try:
        address = ip_address(ip)
    except ValueError:
        return None
    return str(ip_network(f"{address}/{24 if address.version == 4 else 48}", strict=False).network_address)


def public_url(request: Request, settings: Settings) -> str:
    """The address as the client called it, query included: HEADRACE_PUBLIC_URL in place of scheme and host, if set."""
    if settings.public_url is None:
        return str(request.url)
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{settings.public_url.rstrip('/')}{request.url.path}{query}"
