"""The one user that an embedded broker with access control begins with; all others are granted by it."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.broker.errors import BrokerError

__all__ = ["MECHANISM", "Superuser"]

MECHANISM = "SCRAM-SHA-512"
_ITERATIONS = 8192
#: What needs no quoting in a JAAS entry, in a principal, or among a command's arguments.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PASSWORD = re.compile(r"[A-Za-z0-9!#$%&*+./:<>?@^_~-]{8,200}")


@dataclass(frozen=True)
class Superuser:
    """May do everything. Raises BrokerError for a name or a password that Kafka's files can't hold as they are."""

    name: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise BrokerError(f"{self.name!r} can't be the user of the embedded Kafka: letters, digits, `.`, `_`, `-`")
        if not _PASSWORD.fullmatch(self.password):
            raise BrokerError(
                "the password of the embedded Kafka's user must have 8 to 200 characters: letters, digits, and "
                "!#$%&*+./:<>?@^_~-"
            )

    def settings(self) -> Mapping[str, object]:
        """The part of ``server.properties``: who is not granted a right has none.

        The controller's listener, where the broker alone connects, takes the same user by PLAIN: users of SCRAM stand
        in the metadata log, which a controller that starts has not read yet (KIP-900).
        """
        login = f'required username="{self.name}" password="{self.password}"'
        return {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{self.name}",
            "allow.everyone.if.no.acl.found": "false",
            "sasl.enabled.mechanisms": MECHANISM,
            "sasl.mechanism.inter.broker.protocol": MECHANISM,
            "sasl.mechanism.controller.protocol": "PLAIN",
            "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config": (
                f"org.apache.kafka.common.security.scram.ScramLoginModule {login};"
            ),
            "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.controller.plain.sasl.jaas.config": (
                f'org.apache.kafka.common.security.plain.PlainLoginModule {login} user_{self.name}="{self.password}";'
            ),
        }

    def record(self) -> str:
        """The user as ``kafka-storage format --add-scram`` takes it. The password is salted already: arguments can be
        read by every user of the machine."""
        salt = os.urandom(16)
        salted = hashlib.pbkdf2_hmac("sha512", self.password.encode(), salt, _ITERATIONS)
        fields = {
            "name": self.name,
            "iterations": _ITERATIONS,
            "salt": f'"{base64.b64encode(salt).decode()}"',
            "saltedpassword": f'"{base64.b64encode(salted).decode()}"',
        }
        return f"{MECHANISM}=[{','.join(f'{name}={value}' for name, value in fields.items())}]"
