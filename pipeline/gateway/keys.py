"""Secret keys of a source: what a client passes, against the hashes that are kept of them.

A client passes ``<partner-id>.<code>.<secret>``. SHA-256 without salt is enough: the secret is 32 random characters.
"""

from __future__ import annotations

import hashlib
import hmac

from pipeline.models.control import Source, SourceKey

__all__ = ["digest", "key_of", "split_key"]

#: Of a secret that is looked at at all; ours have 32 characters.
_LONGEST = 200


def digest(secret: str) -> str:
    """What is kept of a secret key: SHA-256 of its UTF-8, in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def key_of(source: Source, given: str | None) -> SourceKey | None:
    """The key of ``source`` whose secret ``given`` is, or None. Every key is compared, in constant time."""
    if not given or len(given) > _LONGEST:
        return None
    hashed = digest(given)
    found = None
    for key in source.keys:
        if hmac.compare_digest(key.hash, hashed):
            found = key
    return found


def split_key(text: str) -> tuple[str, str | None]:
    """``<partner-id>.<code>`` and the secret after it, None where there is none: neither of the former has a dot."""
    partner, dot, rest = text.partition(".")
    code, more, secret = rest.partition(".")
    return f"{partner}{dot}{code}", secret if more else None
