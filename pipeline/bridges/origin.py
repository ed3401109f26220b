"""What the settings of feeds share: where an origin is, TLS, and what a source's secret holds."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from pipeline.bridges.base import SetupFault

__all__ = ["Credentials", "Host", "Port", "Settings", "Tls", "headers_of", "ssl_context"]

#: A host name or an address; no port, no scheme.
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_](?:[A-Za-z0-9._:-]{0,251}[A-Za-z0-9_])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
_Pem = Annotated[str, StringConstraints(pattern=r"^\s*-----BEGIN ", max_length=200_000)]
#: Of a message's headers: how many, and how long a value may be. What is more is left out.
_HEADERS, _HEADER = 100, 2000


class Settings(BaseModel):
    """Of a feed: unknown fields are refused, so that a slip is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(Settings):
    """TLS to the origin. Its certificate is checked against the system's authorities, or against ``ca``."""

    ca: _Pem | None = Field(None, description="authorities to trust, PEM; the system's when left out")
    certificate: _Pem | None = Field(None, description="a client certificate, PEM; its key is (in) the source's secret")
    verify: bool = Field(True, description="false: whoever answers is trusted; for trying things out only")


@dataclass(frozen=True)
class Credentials:
    """What the source's secret holds: a password; or the PEM key of the client certificate; or both, as JSON
    ``{"password": "…", "key": "-----BEGIN …"}``."""

    password: str | None = None
    key: str | None = None

    @classmethod
    def of(cls, secret: str | None) -> Credentials:
        """Raises SetupFault for JSON that is something else."""
        if secret is None:
            return cls()
        if secret.lstrip().startswith("-----BEGIN "):
            return cls(key=secret)
        if not secret.startswith("{"):
            return cls(password=secret)
        try:
            parts = orjson.loads(secret)
        except orjson.JSONDecodeError:
            return cls(password=secret)
        if not parts.keys() <= {"password", "key"} or not all(isinstance(part, str) for part in parts.values()):
            raise SetupFault('the secret is JSON, and not of the form {"password": "…", "key": "-----BEGIN …"}')
        return cls(**parts)

    def __repr__(self) -> str:
        return "<Credentials>"


def ssl_context(tls: Tls, credentials: Credentials) -> ssl.SSLContext:
    """Raises SetupFault for a certificate or a key that can't be used."""
    try:
        context = ssl.create_default_context(cadata=tls.ca)
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.certificate is not None:
            if credentials.key is None:
                raise SetupFault("tls.certificate wants its private key, PEM, in the source's secret")
            # Python takes a key from a file alone; it is its owner's only, and gone at once.
            with tempfile.NamedTemporaryFile() as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(f"{credentials.key}\n{tls.certificate}\n".encode())
                file.flush()
                context.load_cert_chain(file.name)
    except (ssl.SSLError, ValueError) as error:
        raise SetupFault(f"tls: the certificates or the key can't be used: {error}") from None
    return context


def headers_of(given: Mapping[Any, Any], **known: Any) -> dict[str, str]:
    """A message's headers as text, names in lower case; ``known`` are the origin's own and stand before others."""
    found: dict[str, str] = {}
    for name, value in given.items():
        if len(found) == _HEADERS:
            break
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if isinstance(value, str | int | float):
            found[str(name).lower()[:200]] = str(value)[:_HEADER]
    return found | {name.replace("_", "-"): str(value)[:_HEADER] for name, value in known.items() if value is not None}
