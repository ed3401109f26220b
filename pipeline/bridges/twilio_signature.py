"""Twilio's signature of its callbacks, for messages and for calls.

Source: Twilio's documentation, "Validating Signatures from Twilio", and its own validator (PyPI `twilio`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from urllib.parse import SplitResult, parse_qs, parse_qsl, urlsplit

from pipeline.bridges.base import BridgeRequest, Refused
from pipeline.bridges.signatures import Algorithm, any_signed, signature

__all__ = ["check_twilio", "form_fields", "sign_twilio"]

_MAX_FIELDS = 1000
_FORM = "application/x-www-form-urlencoded"
#: What the header X-Twilio-Webhooks-Signature-Settings may name; without it, the first.
_ALGORITHMS: dict[str, Algorithm] = {"HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}


def form_fields(body: bytes) -> dict[str, list[str]]:
    """The fields of a form, in the order of their coming. Raises `Refused` 400."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise Refused(
            400, "not_form", f"the body is no properly encoded form of at most {_MAX_FIELDS} fields"
        ) from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


def sign_twilio(token: bytes, url: str, fields: Mapping[str, Sequence[str]], algorithm: Algorithm = "sha1") -> str:
    """X-Twilio-Signature: the address, and each field's name and distinct values in alphabetical order."""
    text = url + "".join(name + value for name in sorted(fields) for value in sorted(set(fields[name])))
    return signature(token, text.encode(), algorithm, "base64")


def check_twilio(request: BridgeRequest, tokens: Sequence[bytes], url: str | None = None) -> dict[str, list[str]]:
    """The fields of a form that Twilio has signed; of a JSON body, which its hash in the address covers, {}.

    ``url``: the public address, where the request's own is another. The signature may be of the address with or
    without the port. Raises `Refused`: 403 without a token, 401 for a wrong signature, 400 for a broken form.
    """
    if not any(tokens):
        raise Refused(403, "no_secret", "the source has no secret; set it to Twilio's auth token")
    no = Refused(
        401,
        "bad_signature",
        "X-Twilio-Signature is missing or not made with the source's secret, for this address and this body; where a "
        "proxy changes the address, tell the public one",
    )
    try:
        address = urlsplit(url or request.url)
        addresses = _with_and_without_port(address)
        hashes = parse_qs(address.query, max_num_fields=_MAX_FIELDS).get("bodySHA256")
    except ValueError:
        raise no from None
    form = request.headers.get("content-type", "").partition(";")[0].strip().lower() in (_FORM, "")
    if not form and hashes is None:
        raise no  # nothing would vouch for the body
    if hashes is not None and not hmac.compare_digest(
        hashes[0].encode(), hashlib.sha256(request.body).hexdigest().encode()
    ):
        raise no
    fields = form_fields(request.body) if form and hashes is None else {}
    named = _named(request.headers.get("x-twilio-webhooks-signature-settings", ""))
    algorithm = _ALGORITHMS.get(named)
    if algorithm is None:
        raise Refused(401, "bad_signature", f"Twilio's signature is of a kind not known here; known: {[*_ALGORITHMS]}")
    given = [request.headers.get("x-twilio-signature", "")]
    if not any_signed(tokens, given, lambda token: [sign_twilio(token, each, fields, algorithm) for each in addresses]):
        raise no
    return fields


def _with_and_without_port(address: SplitResult) -> list[str]:
    port = address.port or (443 if address.scheme == "https" else 80)
    host = address.netloc.rpartition(":")[0] if address.port is not None else address.netloc
    return [address._replace(netloc=each).geturl() for each in (host, f"{host}:{port}")]


def _named(settings: str) -> str:
    """The algorithm in ``key=…,algorithm=HMAC_SHA256``."""
    for part in settings.split(","):
        name, _, value = part.partition("=")
        if name.strip() == "algorithm" and value.strip():
            return value.strip().upper()
    return "HMAC_SHA1"
