"""Rights of those who write straight to Kafka: one principal a source, which may write to its topic and nothing else.

Kafka keeps them: a SCRAM user (or a certificate's name) and one ACL. `WRITE` brings `DESCRIBE` with it, and since
Kafka 3.0 the right to be idempotent (KIP-679), so there is no second one.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka import admin as _confluent_admin

from pipeline.stream.kafka import Kafka

__all__ = ["MECHANISM", "Grant", "GrantError", "apply", "granted", "revoke"]

#: Its own annotations say less than it takes.
_confluent: Any = _confluent_admin
MECHANISM = "SCRAM-SHA-512"
_ITERATIONS = 8192
_SECONDS = 20.0
#: Longer than the client's own deadline, which says more.
_WAIT = _SECONDS + 5
#: What needs no quoting in a shell, in Kafka's files or in a principal.
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
#: A distinguished name as Kafka takes it from a certificate: ``CN=till,O=Acme``.
_DISTINGUISHED = re.compile(r"[A-Za-z.0-9]+=[^\n:*]{1,400}")
#: Errors of brokers -> what to do.
_ADVICE = {
    "SECURITY_DISABLED": "the cluster has no authorizer, so anybody may do anything: set authorizer.class.name on it",
    "CLUSTER_AUTHORIZATION_FAILED": "the user of KAFKA_SASL_USERNAME may not grant: it needs ALTER and DESCRIBE on the "
    "cluster",
    "UNSUPPORTED_VERSION": "the cluster keeps no SCRAM users of its own; make the user where it keeps them, and grant "
    "with --mtls or without a password",
}


class GrantError(Exception):
    """It can't be granted or revoked; the text says why and what to do."""


@dataclass(frozen=True)
class Grant:
    """That ``name`` may write to ``topic``. ``mtls``: the name is that of a certificate, and there is no password.

    Raises GrantError for a name that is none.
    """

    topic: str
    name: str
    mtls: bool = False

    def __post_init__(self) -> None:
        if self.mtls and not _DISTINGUISHED.fullmatch(self.name):
            raise GrantError(f"{self.name[:100]!r} is no name of a certificate, such as CN=till,O=Acme")
        if not self.mtls and not _USER.fullmatch(self.name):
            raise GrantError(f"{self.name[:100]!r} is no name for a user: letters, digits, `.`, `_`, `-`; at most 100")

    @property
    def principal(self) -> str:
        """As Kafka names it."""
        return f"User:{self.name}"

    def binding(self) -> dict[str, str]:
        """The one right, as JSON."""
        return {
            "resource": "TOPIC",
            "name": self.topic,
            "pattern": "LITERAL",
            "principal": self.principal,
            "host": "*",
            "operation": "WRITE",
            "permission": "ALLOW",
        }

    def commands(self) -> list[str]:
        """Kafka's own commands that do what `apply` does. The password is for the reader to put in."""
        where = '--bootstrap-server "$KAFKA_BOOTSTRAP_SERVERS" --command-config admin.properties'
        user = (
            f"kafka-configs.sh {where} --alter --entity-type users --entity-name {self.name} "
            f"--add-config '{MECHANISM}=[iterations={_ITERATIONS},password=PASSWORD]'"
        )
        return [*([] if self.mtls else [user]), f"kafka-acls.sh {where} --add {self._right()}"]

    def undo(self) -> list[str]:
        """Kafka's own commands that do what `revoke` does."""
        where = '--bootstrap-server "$KAFKA_BOOTSTRAP_SERVERS" --command-config admin.properties'
        user = (
            f"kafka-configs.sh {where} --alter --entity-type users --entity-name {self.name} "
            f"--delete-config '{MECHANISM}'"
        )
        return [f"kafka-acls.sh {where} --remove --force {self._right()}", *([] if self.mtls else [user])]

    def _right(self) -> str:
        return f"--allow-principal {shlex.quote(self.principal)} --operation Write --topic {self.topic}"


def apply(kafka: Kafka, grant: Grant, password: str | None = None, *, renew: bool = False) -> str | None:
    """Make the user and its right; returns the password where it was made here: ``password`` left out, and no mTLS.

    ``renew``: give a user that is there another password. Raises GrantError: the user is there already and ``renew``
    is not, it has rights to something else, or the cluster refuses.
    """
    _not_ourselves(kafka, grant)
    with _admin(kafka, change=True) as admin:
        others = [acl for acl in _acls(admin, principal=grant.principal) if acl.name != grant.topic]
        if others:
            names = ", ".join(sorted({acl.name for acl in others})[:5])
            raise GrantError(
                f"{grant.principal} has rights to {names} already; a source has a principal of its own: choose another "
                "name, or revoke those"
            )
        made = None
        if not grant.mtls:
            if _has_user(admin, grant.name) and not renew:
                raise GrantError(
                    f"there is a user {grant.name} already; choose another name, or give it a new password: "
                    "--new-password"
                )
            if password is None:
                password = made = secrets.token_urlsafe(24)
            info = _confluent.ScramCredentialInfo(_confluent.ScramMechanism.SCRAM_SHA_512, _ITERATIONS)
            change = _confluent.UserScramCredentialUpsertion(grant.name, info, password.encode())
            _all(admin.alter_user_scram_credentials([change], request_timeout=_SECONDS))
        _all(admin.create_acls([_binding(grant)], request_timeout=_SECONDS))
    return made


def revoke(kafka: Kafka, grant: Grant) -> bool:
    """Take the right away, at once, and the user with it where it has no other; whether there was one.

    Raises GrantError when the cluster refuses.
    """
    _not_ourselves(kafka, grant)
    with _admin(kafka, change=True) as admin:
        gone = _all(admin.delete_acls([_filter(grant.principal, grant.topic)], request_timeout=_SECONDS))
        left = _acls(admin, principal=grant.principal)
        user = not grant.mtls and not left and bool(gone[0]) and _has_user(admin, grant.name)
        if user:
            change = _confluent.UserScramCredentialDeletion(grant.name, _confluent.ScramMechanism.SCRAM_SHA_512)
            _all(admin.alter_user_scram_credentials([change], request_timeout=_SECONDS))
    return bool(gone[0])


def granted(kafka: Kafka, topic: str) -> list[dict[str, str]]:
    """Who may do what with ``topic`` by name. Raises GrantError when the cluster refuses."""
    with _admin(kafka) as admin:
        return sorted(
            (
                {
                    "principal": acl.principal,
                    "operation": acl.operation.name,
                    "permission": acl.permission_type.name,
                    "host": acl.host,
                }
                for acl in _acls(admin, topic=topic)
            ),
            key=lambda row: (row["principal"], row["operation"]),
        )


def _not_ourselves(kafka: Kafka, grant: Grant) -> None:
    if grant.name == kafka.sasl_username:
        raise GrantError(f"{grant.name} is the user that Headrace itself logs in as; choose another name")


@contextmanager
def _admin(kafka: Kafka, *, change: bool = False) -> Iterator[Any]:
    try:
        admin = _confluent.AdminClient(_librdkafka(kafka))
        _check_rights(admin, change)
        yield admin
    except KafkaException as error:
        inner = error.args[0]
        name = inner.name() if hasattr(inner, "name") else ""
        what = inner.str() if hasattr(inner, "str") else str(error)
        raise GrantError(_ADVICE.get(name, f"Kafka at {kafka.bootstrap_servers}: {what}")) from error
    except TimeoutError:
        raise GrantError(f"Kafka at {kafka.bootstrap_servers} does not answer") from None


def _check_rights(admin: Any, change: bool) -> None:
    """That the cluster guards anything, and that we may look and ``change``.

    Asked before, since the client tells an empty list where a broker refuses to list ACLs (confluent-kafka 2.16).
    """
    about = admin.describe_cluster(include_authorized_operations=True, request_timeout=_SECONDS).result(_WAIT)
    operation, ours = _confluent.AclOperation, set(about.authorized_operations or ())
    if operation.DESCRIBE not in ours or (change and operation.ALTER not in ours):
        raise GrantError(_ADVICE["CLUSTER_AUTHORIZATION_FAILED"])
    if operation.DESCRIBE_CONFIGS in ours:
        broker = _confluent.ConfigResource(_confluent.ConfigResource.Type.BROKER, str(about.controller.id))
        (config,) = _all(admin.describe_configs([broker], request_timeout=_SECONDS))
        if not config["authorizer.class.name"].value:
            raise GrantError(_ADVICE["SECURITY_DISABLED"])


def _librdkafka(kafka: Kafka) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "security.protocol": kafka.security_protocol,
        "socket.timeout.ms": int(_SECONDS * 1000),
        # Its own word on standard error would say each failure a second time.
        "log_level": 2,
    }
    if kafka.security_protocol.startswith("SASL"):
        settings |= {
            "sasl.mechanism": kafka.sasl_mechanism,
            "sasl.username": kafka.sasl_username or "",
            "sasl.password": kafka.sasl_password or "",
        }
    files = {
        "ssl.ca.location": kafka.ssl_cafile,
        "ssl.certificate.location": kafka.ssl_certfile,
        "ssl.key.location": kafka.ssl_keyfile,
    }
    return settings | {name: path for name, path in files.items() if path}


def _all(futures: Mapping[Any, Any]) -> list[Any]:
    return [future.result(_WAIT) for future in futures.values()]


def _binding(grant: Grant) -> Any:
    return _confluent.AclBinding(
        _confluent.ResourceType.TOPIC,
        grant.topic,
        _confluent.ResourcePatternType.LITERAL,
        grant.principal,
        "*",
        _confluent.AclOperation.WRITE,
        _confluent.AclPermissionType.ALLOW,
    )


def _filter(principal: str | None, topic: str | None) -> Any:
    return _confluent.AclBindingFilter(
        _confluent.ResourceType.ANY if topic is None else _confluent.ResourceType.TOPIC,
        topic,
        _confluent.ResourcePatternType.ANY if topic is None else _confluent.ResourcePatternType.LITERAL,
        principal,
        None,
        _confluent.AclOperation.ANY,
        _confluent.AclPermissionType.ANY,
    )


def _acls(admin: Any, *, principal: str | None = None, topic: str | None = None) -> Sequence[Any]:
    found: Sequence[Any] = admin.describe_acls(_filter(principal, topic), request_timeout=_SECONDS).result(_WAIT)
    return found


def _has_user(admin: Any, name: str) -> bool:
    try:
        admin.describe_user_scram_credentials([name], request_timeout=_SECONDS)[name].result(_WAIT)
    except KafkaException as error:
        if error.args[0].name() == "RESOURCE_NOT_FOUND":
            return False
        raise
    return True
