"""Any other webhook: a shared secret in a header, an HMAC of the body, or Basic credentials."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from pipeline.bridges.base import BridgeRequest, Refused
from pipeline.bridges.provider import Provider, WebhookSettings, decode_json, named
from pipeline.bridges.signatures import Algorithm, Encoding, any_signed, check_time, signature
from pipeline.bridges.standard import COMMON
from pipeline.bridges.twilio_signature import form_fields
from pipeline.models.base import Millis
from pipeline.models.mapping import Mapping

__all__ = ["GenericBridge"]

_FORM = "application/x-www-form-urlencoded"
Header = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]


class GenericSettings(WebhookSettings):
    """How the sender says who it is, and what its deliveries become."""

    auth: Literal["hmac", "secret", "basic"] = Field(
        "hmac",
        description="hmac: the header holds the HMAC of the body; secret: the secret itself; basic: Authorization: "
        "Basic, the source's secret being `<user>:<password>`",
    )
    header: Header = Field("X-Signature", description="where the HMAC or the secret is; not for basic")
    prefix: str = Field("", max_length=40, description="what stands before it, such as `sha256=` or `Bearer `")
    algorithm: Algorithm = Field("sha256", description="of the HMAC")
    encoding: Encoding = Field("hex", description="of the HMAC")
    timestamp: Header | None = Field(
        None, description="header with the time in seconds; then `<time>.<body>` is signed, within 300 s of now"
    )
    id: Header | None = Field(
        None, description="header with the delivery's id; else the mapping's messageId, else the body's SHA-256"
    )


class GenericBridge(Provider):
    """For senders that have no file of their own."""

    name = "webhook"
    title = "any webhook: HMAC, shared secret or Basic, by its settings"
    channel = "Web"
    Settings = GenericSettings
    mapping: ClassVar[Mapping] = COMMON

    def check(self, request: BridgeRequest, settings: Any, secrets: Sequence[bytes], now_ms: Millis) -> None:
        """As the settings say."""
        header = "Authorization" if settings.auth == "basic" else settings.header
        given = request.headers.get(header.lower(), "")
        if not any_signed(secrets, [given], _expected(request, settings, now_ms)):
            raise Refused(401, "bad_signature", f"{header} is missing or not made with the source's secret")

    def document(self, request: BridgeRequest, settings: Any) -> Any:
        """JSON, or a form's fields."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM:
            return {name: values[0] for name, values in form_fields(request.body).items()}
        return decode_json(request.body)

    def message_id(self, request: BridgeRequest, document: Any, settings: Any) -> str:
        """The header's; else by the body: the same delivery twice is one."""
        if settings.id is not None:
            return named(request.headers.get(settings.id.lower()), settings.id)
        return "sha256:" + hashlib.sha256(request.body).hexdigest()


def _expected(request: BridgeRequest, settings: GenericSettings, now_ms: Millis) -> Any:
    if settings.auth == "basic":
        return lambda secret: ["Basic " + base64.b64encode(secret).decode()]
    if settings.auth == "secret":
        return lambda secret: [settings.prefix + secret.decode()]
    signed = request.body
    if settings.timestamp is not None:
        moment = request.headers.get(settings.timestamp.lower(), "")
        signed = check_time(moment, settings.timestamp, now_ms).encode() + b"." + signed
    return lambda secret: [settings.prefix + signature(secret, signed, settings.algorithm, settings.encoding)]
