"""A Kafka that lets in whom it knows: every role logs in, and a producer may write to its own topic, nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from typing import Any

import httpx
import pytest
from eventually import eventually
from stack import Stack
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.stream.kafka import Kafka
from pipeline.topics.grants import Grant, GrantError, apply, granted, revoke

ADMIN = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-512"}
PASSWORD = "correct-horse-battery"


def settings(stack: Stack, user: str, password: str) -> dict[str, Any]:
    """Of librdkafka, as somebody else's producer has them."""
    return {
        "bootstrap.servers": stack.kafka,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": user,
        "sasl.password": password,
        "log_level": 0,
    }


#: In a process of their own: what librdkafka does at its end is no business of the test's process.
WRITE = """
import json, sys
from confluent_kafka import Producer
settings, topic, value = json.loads(sys.argv[1])
said = []
# What ends an idempotent producer, and a login that is refused, are told to `error_cb` and to no delivery.
settings |= {"error_cb": lambda error: said.append(error.name())}
producer = Producer(settings)
producer.produce(topic, value, on_delivery=lambda error, _: said.append("ok" if error is None else error.name()))
for _ in range(200):
    producer.poll(0.1)
    if said and said[0] != "_ALL_BROKERS_DOWN":
        break
print(said[0], flush=True)
"""
READ = """
import json, sys
from confluent_kafka import Consumer, TopicPartition
settings, topic, _ = json.loads(sys.argv[1])
reader = Consumer(settings)
reader.assign([TopicPartition(topic, 0, 0)])
said = set()
for _ in range(150):
    message = reader.poll(0.1)
    if message is not None:
        said.add(message.error().name() if message.error() else "read")
    if "TOPIC_AUTHORIZATION_FAILED" in said:
        break
print(*sorted(said), flush=True)
"""


def client(script: str, stack: Stack, user: str, password: str, topic: str, value: str = "", **more: Any) -> str:
    """What the script prints: the words of the broker."""
    given = json.dumps([settings(stack, user, password) | more, topic, value])
    run = subprocess.run([sys.executable, "-c", script, given], capture_output=True, text=True, timeout=60)
    return run.stdout.strip() or run.stderr


def write(stack: Stack, user: str, password: str, topic: str, event: dict[str, Any]) -> str:
    """``ok``, or what the broker says of one record that an idempotent producer writes."""
    more = {"enable.idempotence": True, "acks": "all", "message.timeout.ms": 10_000}
    return client(WRITE, stack, user, password, topic, json.dumps(event), **more)


def headrace(stack: Stack, *arguments: str, **env: str) -> Any:
    access = {
        "HEADRACE_API": stack.api,
        "KAFKA_BOOTSTRAP_SERVERS": stack.kafka,
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": "headrace",
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "COLUMNS": "200",
    }
    return CliRunner().invoke(app, list(arguments), env=access | env)


@pytest.mark.slow
async def test_a_producer_may_write_to_its_source_and_nothing_else_until_it_is_revoked(secured_stack: Stack) -> None:
    stack = secured_stack
    name = f"t{uuid.uuid4().hex[:10]}"
    base = f"{stack.api}/v1/partners"
    async with httpx.AsyncClient(base_url=base, timeout=30, follow_redirects=True) as api:

        async def made() -> bool:
            # All roles have begun a moment ago; a repeat gets the first answer.
            headers = {"Idempotency-Key": f"partner-{name}"}
            return (await api.post("", json={"id": name, "name": "Acme"}, headers=headers)).status_code == 201

        await eventually(made, 60)
        for source in ("till", "other"):
            made = await api.post(f"/{name}/sources", json={"id": source, "name": source, "bridge": "kafka"})
            assert made.status_code == 201, made.text
        segment = {"id": "sold", "name": "Sold", "condition": {"event": "Sold"}}
        assert (await api.post(f"/{name}/segments", json=segment)).status_code == 201

        shown = headrace(stack, "sources", "grant", name, "till", "--principal", "till-7")
        assert shown.exit_code == 0, shown.output
        assert "Nothing was changed" in shown.stderr
        assert f"--operation Write --topic raw.{name}.till" in shown.stdout
        assert headrace(stack, "sources", "grants", name, "till", "--json").stdout.strip() == "[]"

        done = headrace(stack, "sources", "grant", name, "till", "--principal", "till-7", "--apply")
        assert done.exit_code == 0, done.output
        password = re.search(r"shown this once: (\S+)", done.stdout)[1]  # type: ignore[index]
        rows = json.loads(headrace(stack, "sources", "grants", name, "till", "--json").stdout)
        assert rows == [{"principal": "User:till-7", "operation": "WRITE", "permission": "ALLOW", "host": "*"}]

        # Writing, idempotently: counted by workers that log in themselves.
        own, other = f"raw.{name}.till", f"raw.{name}.other"
        event = {"event": "Sold", "userId": "ann", "messageId": "1"}
        assert write(stack, "till-7", password, own, event) == "ok"

        async def counted() -> bool:
            found = (await api.get(f"/{name}/segments/sold/counts")).json()
            return bool(found["total"]["customers"] == 1)

        await eventually(counted, 60, what="the event of the granted producer")
        sent = await httpx.AsyncClient().post(
            f"{stack.gateway}/v1/track", auth=(f"{name}.online-store", ""), json={"event": "Seen", "userId": "bob"}
        )
        assert sent.status_code == 200 or sent.json()["code"] == "wrong_bridge", sent.text

        # Nothing else: no other topic, no reading, no login with another password.
        assert write(stack, "till-7", password, other, event) == "TOPIC_AUTHORIZATION_FAILED"
        assert write(stack, "till-7", password, "control", event) == "TOPIC_AUTHORIZATION_FAILED"
        assert write(stack, "till-7", "wrong-password", own, event) == "_AUTHENTICATION"
        # The group that its library asks for is refused too.
        read = client(READ, stack, "till-7", password, own, **{"group.id": "till-7"}).split()
        assert "TOPIC_AUTHORIZATION_FAILED" in read
        assert "read" not in read
        anybody = Kafka(stack.kafka)
        admin = anybody.admin(request_timeout_ms=3000)
        with pytest.raises(Exception, match=r".+"):
            await admin.start()
        await admin.close()

        gone = headrace(stack, "sources", "revoke", name, "till", "--principal", "till-7", "--apply")
        assert "may not write" in gone.stdout, gone.output
        assert write(stack, "till-7", password, own, event) == "_AUTHENTICATION"
        assert json.loads(headrace(stack, "sources", "grants", name, "till", "--json").stdout) == []

    _what_is_refused(stack, own, other)


def _what_is_refused(stack: Stack, own: str, other: str) -> None:
    kafka = Kafka(stack.kafka, sasl_username="headrace", sasl_password=PASSWORD, **ADMIN)
    chosen = Grant(own, "chosen")
    assert apply(kafka, chosen, "a-password-of-mine") is None
    assert write(stack, "chosen", "a-password-of-mine", own, {"event": "Sold", "userId": "x"}) == "ok"
    with pytest.raises(GrantError, match="there is a user chosen already"):
        apply(kafka, chosen, "another-password")
    assert apply(kafka, chosen, renew=True)
    with pytest.raises(GrantError, match=f"has rights to {own} already"):
        apply(kafka, Grant(other, "chosen"))
    with pytest.raises(GrantError, match="logs in as"):
        apply(kafka, Grant(own, "headrace"))
    assert apply(kafka, Grant(own, "CN=till,O=Acme", mtls=True)) is None
    assert [row["principal"] for row in granted(kafka, own)] == ["User:CN=till,O=Acme", "User:chosen"]
    assert revoke(kafka, Grant(own, "CN=till,O=Acme", mtls=True))
    assert not revoke(kafka, Grant(own, "nobody"))
    # One who may not grant is told so.
    lesser = Kafka(stack.kafka, sasl_username="lesser", sasl_password="lesser-password", **ADMIN)
    apply(kafka, Grant(other, "lesser"), "lesser-password")
    for refused in (lambda: apply(lesser, Grant(own, "mine")), lambda: granted(lesser, own)):
        with pytest.raises(GrantError, match="may not grant"):
            refused()


@pytest.mark.parametrize("name", ["", "a b", "*", "User:x", "a\nb", "é", "x" * 101, "-a"])
def test_a_name_that_kafka_would_read_otherwise_is_none(name: str) -> None:
    with pytest.raises(GrantError):
        Grant("raw.acme.till", name)


def test_a_certificates_name_is_quoted_in_what_is_shown() -> None:
    grant = Grant("raw.acme.till", "CN=it's $(a) till,O=Acme", mtls=True)
    (command,) = grant.commands()
    assert """'User:CN=it'"'"'s $(a) till,O=Acme'""" in command
    with pytest.raises(GrantError):
        Grant("raw.acme.till", "till", mtls=True)


@pytest.mark.kafka
def test_a_cluster_without_access_control_says_so(kafka: Kafka) -> None:
    with pytest.raises(GrantError, match=r"authorizer\.class\.name"):
        granted(kafka, "raw.acme.till")
