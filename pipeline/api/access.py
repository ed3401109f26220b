"""Who may ask: a bearer token where one is set, and this machine alone where none is."""

from __future__ import annotations

import hmac
import ipaddress
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from pipeline.api.errors import ApiError
from pipeline.settings import Settings

__all__ = ["check_access", "check_binding"]

_bearer = HTTPBearer(auto_error=False, description="the token of `HEADRACE_API_TOKEN`, where it is set")


def check_binding(settings: Settings) -> None:
    """Raises ValueError when the API would be open to the network without a token."""
    if settings.api_token is None and not _is_loopback(settings.host):
        raise ValueError(
            f"the admin API on {settings.host} could be reached by anybody; set HEADRACE_API_TOKEN, "
            "or HEADRACE_HOST=127.0.0.1"
        )


def check_access(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
    """Dependency of every route under /v1."""
    settings: Settings = request.app.state.settings
    if settings.api_token is not None:
        wanted = settings.api_token.get_secret_value().encode()
        if given is None or not hmac.compare_digest(given.credentials.encode("latin-1"), wanted):
            raise ApiError(401, "unauthorized", "pass the token: Authorization: Bearer <HEADRACE_API_TOKEN>")
    elif not _is_loopback(request.url.hostname or ""):
        # A page elsewhere can point a name of its own at 127.0.0.1 (DNS rebinding); its Host betrays it.
        raise ApiError(403, "foreign_host", "without a token, ask by localhost or 127.0.0.1")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
