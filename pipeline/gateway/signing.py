"""The secrets that a source's requests are signed with."""

from __future__ import annotations

import logging

from pipeline.bridges.base import Refused
from pipeline.control.secrets import SecretError, Secrets
from pipeline.models.control import Source

__all__ = ["signing_secrets"]

_log = logging.getLogger(__name__)


def signing_secrets(secrets: Secrets, source: Source) -> list[bytes]:
    """One a line: while one is replaced, the old and the new both count. Raises `Refused` 503."""
    if source.secret is None:
        return []
    try:
        value = secrets.get(source.secret)
    except SecretError as error:
        _log.error("source %s.%s: %s", source.partner, source.id, error)
        raise Refused(503, "no_secret", "the source's secret cannot be read now; set it anew") from None
    return [line.strip().encode() for line in value.splitlines() if line.strip()]
