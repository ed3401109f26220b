"""`headrace sources verify`: send something through a source's own door, and watch it pass every stage."""

from __future__ import annotations

import asyncio
import base64
import json as json_
import os
import time
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
import typer

from pipeline.cli.client import Client, fail
from pipeline.cli.options import Api, Json, Partner
from pipeline.cli.tail import Tail

__all__ = ["verify"]

_GATEWAY = "http://127.0.0.1:8080"
#: A key that was made a moment ago is known everywhere within 2 s.
_KEY_SECONDS = 4.0
#: Door -> what to do where no test event can be sent from here.
_BY_HAND = {
    "webhook": "have the provider send one (most have a test button) to {gateway}/v1/webhooks/{partner}/{code}",
    "link": "open a tracked link or e-mail of this source",
    "feed": "put one into what it fetches from",
    "server": "send one with a secret key of the source",
    "topic": "write one to the Kafka topic {topic}, or set KAFKA_BOOTSTRAP_SERVERS here and run this again",
}
#: Bridges whose doors want a secret key, and can be tried with one.
_SERVERS = ("crm", "call-center")
#: Stage that was not reached -> next step.
_NEXT = {
    "raw": "Kafka acknowledged and the topic does not show it: is HEADRACE_API's Kafka the gateway's?",
    "accepted": "no intake worker takes it: run `headrace worker --roles intake`, or look at its /readyz and its log",
    "counted": "no fan-out worker takes it: run `headrace worker --roles fanout`, or look at its /readyz and its log",
}
#: Refusal of the gateway -> next step.
_REFUSED = {
    "inactive_source": "switch it on: headrace sources switch {partner} {source} on",
    "wrong_domain": "pages must be of the source's domain: headrace sources edit {partner} {source} --domain HOST",
    "wrong_code": "the gateway knows another code; if it was changed a moment ago, run this again",
    "unknown_source": "does the gateway at {gateway} follow the same Kafka as the API?",
    "unavailable": "the gateway's Kafka does not answer",
}


@dataclass
class _Test:
    """What is sent, and what is known of it."""

    partner: str
    source: dict[str, Any]
    gateway: str
    id: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex}")

    def request(self) -> tuple[str, dict[str, Any], dict[str, str]]:
        """Path, body and headers for the gateway."""
        where = f"{self.partner}/{self.source['code']}"
        marked = {"X-Headrace-Test": "1"}
        if self.source["bridge"] == "crm":
            return f"/v1/crm/{where}/customers", {"id": "headrace-test"}, marked | {"Idempotency-Key": self.id}
        if self.source["bridge"] == "call-center":
            call = {"call_id": self.id, "status": "started", "direction": "inbound", "from": "+15550100"}
            return f"/v1/calls/{where}", call, marked
        return "/v1/track", self.event(), {}

    def event(self) -> dict[str, Any]:
        """Marked (``context.test``): it passes every stage, and counts nowhere."""
        return {
            "type": "track",
            "event": (self.source["policy"].get("events") or ["Headrace Test"])[0],
            "userId": "headrace-test",
            "messageId": self.id,
            "context": {"test": True},
        }

    def text(self, template: str) -> str:
        """With the names of this source in it."""
        source = self.source
        return template.format(
            gateway=self.gateway,
            partner=self.partner,
            source=source["id"],
            code=source["code"],
            topic=source["topic"],
        )


def verify(
    partner: Partner,
    code: Annotated[str, typer.Argument(metavar="CODE", help="code or id of the source")],
    gateway: Annotated[
        str | None, typer.Option(help="address of the gateway; else HEADRACE_GATEWAY, else http://127.0.0.1:8080")
    ] = None,
    timeout: Annotated[float, typer.Option(help="seconds that each stage may take")] = 15.0,
    wait: Annotated[
        float, typer.Option(help="seconds to wait for a real event, where none can be sent from here")
    ] = 120.0,
    api: Api = None,
    json: Json = False,
) -> None:
    """Send a marked test event through the source's door and watch it pass each stage. It counts nowhere.

    Ends with 0 when all stages are passed, and with 1, the reason and the next step when one is not.
    """
    client = Client(api)
    source = _source(client, partner, code)
    address = (gateway or os.environ.get("HEADRACE_GATEWAY") or _GATEWAY).rstrip("/")
    test = _Test(partner, source, address)
    if not source["active"]:
        fail(f"source {source['id']} is switched off; " + test.text(_REFUSED["inactive_source"]))
    door = _door(client, source["bridge"])
    with Tail(client, partner, source["id"]) as tail:
        sent = _send(client, test, door, tell=not json)
        if not sent and not json:
            typer.echo("Waiting for an event: " + test.text(_BY_HAND[door]), err=True)
        passed, fault = _follow(tail, test, door, sent, timeout, wait, tell=not json)
    if json:
        typer.echo(json_.dumps({"passed": passed, "fault": fault}, ensure_ascii=False, indent=2))
        raise typer.Exit(1 if fault else 0)
    if fault:
        fail(fault)
    typer.echo(f"The way of {source['id']} is open" + ("; the test event counted nowhere." if sent else "."))


def _source(client: Client, partner: str, code: str) -> dict[str, Any]:
    items = client.get("partners", partner, "sources", removed="true")["items"]
    live = [item for item in items if not item["removed"]]
    for item in sorted(live, key=lambda each: each["code"] != code):
        if code in (item["code"], item["id"]):
            return dict(item)
    if any(code in (item["code"], item["id"]) for item in items):
        fail(f"source {code} was removed")
    known = ", ".join(item["code"] for item in live[:20])
    return fail(f"no source of {partner} has the code or id {code!r}; there are: {known}")


def _door(client: Client, bridge: str) -> str:
    if bridge == "kafka":
        return "topic"
    doors = {item["name"]: item["door"] for item in client.get("bridges")["items"]}
    return str(doors.get(bridge, "server"))


def _send(client: Client, test: _Test, door: str, *, tell: bool) -> bool:
    """Whether a test event was sent; a refusal ends the command."""
    began = time.monotonic()
    if door == "tracking" or test.source["bridge"] in _SERVERS:
        _ask(client, test)
        where = f"POST {test.gateway}{test.request()[0]}"
    elif door == "topic" and os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        _produce(test)
        where = f"a record to {test.source['topic']}"
    else:
        return False
    if tell:
        typer.echo(f"sent      {where}, acknowledged after {(time.monotonic() - began) * 1000:.0f} ms")
    return True


def _ask(client: Client, test: _Test) -> None:
    source = test.source
    if source["policy"].get("key") != "secret" and source["bridge"] not in _SERVERS:
        _post(test, source["key"], patience=0)
        return
    # The secrets of its keys are not known to anybody here, so it gets one for the moment.
    path = ("partners", test.partner, "sources", source["id"], "keys")
    key = client.add(*path, body={"name": "verify"})
    try:
        _post(test, key["key"], patience=_KEY_SECONDS)
    finally:
        client.take(*path, key["id"])


def _post(test: _Test, key: str, *, patience: float) -> None:
    headers = {"Authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}
    path, body, more = test.request()
    headers |= more
    domain = test.source.get("domain")
    if domain and not more:
        headers["Origin"] = "https://" + (f"www{domain[1:]}" if domain.startswith("*.") else domain)
    deadline = time.monotonic() + patience
    while True:
        try:
            answer = httpx.post(test.gateway + path, json=body, headers=headers, timeout=30)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            fail(
                f"no gateway answers on {test.gateway} ({type(error).__name__}); start it with `headrace up` or "
                "`headrace gateway`, or name another address with --gateway or HEADRACE_GATEWAY"
            )
        if answer.status_code != 401 or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if answer.status_code == 200:
        return
    try:
        said = answer.json()
        code, message = said["code"], said["message"]
    except (ValueError, KeyError, TypeError):
        fail(f"{test.gateway} answered {answer.status_code}, and not as Headrace's gateway does; is it one?")
    step = test.text(_REFUSED[code]) if code in _REFUSED else "the message says what to do"
    fail(f"the gateway refuses it ({answer.status_code} {code}): {message}. Next: {step}")


def _produce(test: _Test) -> None:
    from aiokafka.errors import KafkaError

    from pipeline.settings import KafkaSettings

    async def send() -> None:
        producer = KafkaSettings().kafka().producer()
        await producer.start()
        try:
            topic = test.source["topic"]
            await producer.send_and_wait(topic, json_.dumps(test.event()).encode(), key=b"headrace-test")
        finally:
            await producer.stop()

    try:
        asyncio.run(asyncio.wait_for(send(), 30))
    except (KafkaError, OSError, ValueError, TimeoutError) as error:
        fail(f"Kafka does not take it: {type(error).__name__}: {error}; check KAFKA_BOOTSTRAP_SERVERS and KAFKA_SASL_*")


def _follow(
    tail: Tail, test: _Test, door: str, sent: bool, timeout: float, wait: float, *, tell: bool
) -> tuple[list[dict[str, Any]], str | None]:
    """The stages that were passed, and what is wrong if one was not."""
    passed: list[dict[str, Any]] = []
    wanted = test.id if sent else None
    reached = "sent"
    deadline = time.monotonic() + (timeout if sent else wait)
    while reached != "counted":
        sighting = tail.next(max(0.0, deadline - time.monotonic()))
        if sighting is None:
            return passed, tail.end or _missing(test, door, reached, sent)
        if wanted is None and sighting["stage"] in ("edge", "raw"):
            wanted = sighting["id"]
        # Some doors make ids of a test's: one for each customer of a request.
        if not sighting["id"].startswith(wanted or ""):
            continue
        passed.append(sighting)
        deadline = time.monotonic() + timeout
        stage = sighting["stage"]
        if tell:
            typer.echo(f"{stage:<9} {'+' + str(sighting['after_ms']) + ' ms':<10} {sighting['place']}")
        if stage == "rejected":
            where = f" at {sighting['path']}" if sighting["path"] else ""
            return (
                passed,
                f"intake rejects it ({sighting['reason']}{where}): {sighting['detail']}. {_advice(test, sighting)}",
            )
        if stage == "accepted" and "transient" in sighting["flags"]:
            # It is processed and not kept, so there is no record that it was.
            return passed, None
        reached = stage
    return passed, None


def _advice(test: _Test, sighting: dict[str, Any]) -> str:
    if sighting["reason"] in _REFUSED:
        return "Next: " + test.text(_REFUSED[sighting["reason"]])
    return "Next: correct the source's policy, or what is sent: headrace sources show " + (
        f"{test.partner} {test.source['id']}"
    )


def _missing(test: _Test, door: str, reached: str, sent: bool) -> str:
    if not sent and reached == "sent":
        return "nothing came. Next: " + test.text(_BY_HAND.get(door, "send an event"))
    stage = {"sent": "raw", "edge": "raw", "raw": "accepted", "accepted": "counted"}[reached]
    if stage == "counted" and not sent:
        return "it was accepted, and is not counted: its message id came before, or no fan-out worker runs"
    return f"the stage `{stage}` was not reached in time. Next: {_NEXT[stage]}"
