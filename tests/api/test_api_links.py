"""Making tracked links, rewriting e-mails and trying samples, by the API and by commands, on the real control log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from control_topics import make_control_topics
from eventually import eventually
from typer.testing import CliRunner

from pipeline.api.app import create_app
from pipeline.api.role import serve
from pipeline.bridges.link_token import Tracked, peek, signed_by
from pipeline.cli.main import app as commands
from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka

pytestmark = pytest.mark.kafka
ADDRESS = "https://click.shop.example"


class Api:
    """A served API and a partner of the test's own, with sources `mail` (links) and `shop` (Shopify)."""

    def __init__(self, http: httpx.AsyncClient, partner: str) -> None:
        self.http, self.partner = http, partner

    async def __call__(self, path: str, body: Any, status: int = 0) -> Any:
        answer = await self.http.post(f"/v1/partners/{self.partner}/sources{path}", json=body)
        assert answer.status_code == status or (not status and answer.is_success), answer.text
        return answer.json()

    async def run(self, *arguments: str, status: int = 0, input: str = "") -> Any:
        env = {"HEADRACE_API": str(self.http.base_url), "HEADRACE_API_TOKEN": ""}
        result = await asyncio.to_thread(CliRunner().invoke, commands, list(arguments), env=env, input=input)
        assert result.exit_code == status, result.output
        return result


@pytest.fixture
async def api(kafka: Kafka, prefix: str) -> AsyncIterator[Api]:
    await make_control_topics(kafka)
    control, secrets, stop = ControlLog(kafka), Secrets(kafka, [os.urandom(32)]), asyncio.Event()
    await control.start()
    await secrets.start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        settings = Settings(api_port=probe.getsockname()[1])
    serving = asyncio.create_task(serve(create_app(control, secrets, settings), settings, stop))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.api_port}") as http:

        async def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return (await http.get("/healthz")).status_code == 200
            return False

        await eventually(answers)
        made = Api(http, prefix)
        assert (await http.post("/v1/partners", json={"id": prefix, "name": "Acme"})).status_code == 201
        mail = {"id": "mail", "name": "Mail", "bridge": "links", "secret": "new\nold", "settings": {"address": ADDRESS}}
        assert (await made("", mail))["channel"] == "E-mail"
        await made("", {"id": "shop", "name": "Shop", "bridge": "webhook-shopify", "secret": "s"})
        yield made
    stop.set()
    await serving
    await secrets.stop()
    await control.stop()


async def test_links_are_signed_with_the_first_secret_and_carry_what_was_said(api: Api) -> None:
    expires = "2030-01-01T00:00:00Z"
    wanted = {"url": "https://shop.example/ü", "link": "hero", "campaign": "spring", "recipient": {"userId": "u-1"}}
    items = (await api("/mail/links", {"links": [wanted | {"expires": expires}, {"campaign": "spring"}]}))["items"]
    link, pixel = (item["address"] for item in items)
    assert link.startswith(f"{ADDRESS}/l/")
    token = link.rpartition("/")[2]
    assert signed_by(token, [b"new"])
    assert not signed_by(token, [b"old"])
    assert peek(token) == Tracked(
        api.partner, "mail", "https://shop.example/%C3%BC", "hero", "spring", "u", "u-1", 1893456000000
    )
    assert pixel.startswith(f"{ADDRESS}/o/")
    assert peek(pixel.rpartition("/")[2].removesuffix(".gif")).url is None


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        ({"links": [{"url": "https://a.example"}, {"url": "javascript:x"}]}, 400, "$.links[1].url"),
        ({"links": [{"url": "https://a.example", "recipient": {}}]}, 400, "$.links[0].recipient"),
        ({"links": [{"url": "https://a.example", "expires": "tomorrow"}]}, 400, "$.links[0].expires"),
        ({"links": []}, 400, "$.links"),
    ],
)
async def test_what_is_wrong_is_said_with_its_path(api: Api, body: Any, status: int, path: str) -> None:
    assert (await api("/mail/links", body, status))["path"] == path


async def test_a_source_that_cannot_sign_says_what_it_lacks(api: Api) -> None:
    body = {"links": [{"url": "https://a.example"}]}
    assert (await api("/shop/links", body, 409))["code"] == "wrong_bridge"
    await api("", {"id": "bare", "name": "Bare", "bridge": "links", "settings": {"address": ADDRESS}})
    assert (await api("/bare/links", body, 409))["code"] == "no_secret"
    await api("", {"id": "lost", "name": "Lost", "bridge": "links", "secret": "s"})
    assert (await api("/lost/links", body, 409))["code"] == "no_address"
    assert (await api("/nobody/links", body, 404))["code"] == "unknown_source"
    wrong = {"id": "w", "name": "W", "bridge": "links", "settings": {"address": "click.shop.example"}}
    assert (await api("", wrong, 400))["path"] == "$.settings.address"


HTML = (
    '<html><body>\r\n<a class=x href="https://shop.example/a?b=1&amp;c=2">A</a>'
    '<a data-headrace="skip" href="https://shop.example/unsubscribe">U</a><a href="mailto:a@b.x">M</a>é</body></html>'
)


async def test_an_email_is_rewritten_once(api: Api, tmp_path: Path) -> None:
    body = {"html": HTML, "campaign": "spring", "recipient": {"email": "ann@shop.example"}}
    made = await api("/mail/links/email", body)
    assert (made["links"], made["skipped"]) == (1, 2)
    token = made["html"].partition(f'href="{ADDRESS}/l/')[2].partition('"')[0]
    assert peek(token).url == "https://shop.example/a?b=1&c=2"
    assert peek(token).who == "ann@shop.example"
    assert f'<img src="{ADDRESS}/o/' in made["html"]
    # Again: nothing is tracked twice.
    assert (await api("/mail/links/email", body | {"html": made["html"]}))["html"] == made["html"]

    for encoding in ("utf-8", "latin-1"):
        source, target = tmp_path / "in.html", tmp_path / "out.html"
        source.write_bytes(HTML.encode(encoding))
        await api.run("links", "email", api.partner, "mail", str(source), "-o", str(target), "--no-pixel")
        out = target.read_bytes()
        token = out.partition(f'href="{ADDRESS}/l/'.encode())[2].partition(b'"')[0]
        original = b"https://shop.example/a?b=1&amp;c=2"
        assert out.replace(f"{ADDRESS}/l/".encode() + token, original) == HTML.encode(encoding)


async def test_links_by_command(api: Api) -> None:
    result = await api.run(
        "links", "make", api.partner, "mail", "https://a.example", "https://b.example", "--user", "u"
    )
    lines = result.stdout.split()
    assert [peek(line.rpartition("/")[2]).url for line in lines] == ["https://a.example", "https://b.example"]
    result = await api.run("links", "pixel", api.partner, "mail", "--campaign", "spring")
    assert peek(result.stdout.strip().rpartition("/")[2].removesuffix(".gif")).campaign == "spring"


ORDER = {"id": 7, "email": "a@b.example", "total_price": "9.50"}
TOPIC = {"X-Shopify-Topic": "orders/create"}


async def test_a_sample_is_tried_on_the_saved_mapping_and_on_one_that_is_given(api: Api) -> None:
    [event] = (await api("/shop/try", {"body": ORDER, "headers": TOPIC}))["events"]
    assert (event["event"], event["properties"]["total"]) == ("Order Completed", 9.5)
    assert await api("/shop/try", {"body": ORDER}) == {"events": [], "answer": None, "errors": []}
    mapping = {"events": [{"event": "Tried", "userId": "u", "properties": {"n": {"path": "$.email", "as": "number"}}}]}
    [error] = (await api("/shop/try", {"body": ORDER, "mapping": mapping}))["errors"]
    assert (error["code"], error["path"]) == ("mapping", "$.email")
    bad = {"events": [{"event": "$.a..b"}]}
    assert (await api("/shop/try", {"body": ORDER, "mapping": bad}, 400))["path"] == "$.mapping.events[0].event"
    assert (await api("/online-store/try", {"body": ORDER}, 409))["code"] == "no_mapping"
    good = {"events": [{"event": "Tried", "userId": "$.email"}]}
    [event] = (await api("/online-store/try", {"body": ORDER, "mapping": good}))["events"]
    assert event["userId"] == "a@b.example"


async def test_a_sample_by_command(api: Api, tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text(json.dumps(ORDER))
    sample = ["sources", "try", api.partner, "shop", f"@{tmp_path / 'order.json'}"]
    result = await api.run(*sample, "--header", "X-Shopify-Topic: orders/create")
    assert json.loads(result.stdout)["event"] == "Order Completed"
    result = await api.run(*sample, "--mapping", '{"events": [{"event": "T"}]}', status=1)
    assert "$.userId" in result.stderr
    form = ["sources", "try", api.partner, "sms", "--form", "MessageSid=SM1&From=%2B1401&Body=hi"]
    await api("", {"id": "sms", "name": "SMS", "bridge": "webhook-twilio", "secret": "s"})
    result = await api.run(*form)
    assert json.loads(result.stdout)["traits"] == {"phone": "+1401"}
    assert "<Response/>" in result.stderr


async def test_every_provider_shows_its_own_mapping_and_a_secret_may_have_several_lines(api: Api) -> None:
    items = {item["name"]: item for item in (await api.http.get("/v1/bridges")).json()["items"]}
    assert items["webhook-shopify"]["mapping"]["events"][0]["event"] == "Order Completed"
    assert items["rest"]["mapping"] is None
    # It can be tried, and saved, as it is shown.
    mapping = items["webhook-shopify"]["mapping"]
    [event] = (await api("/shop/try", {"body": ORDER, "headers": TOPIC, "mapping": mapping}))["events"]
    assert event["event"] == "Order Completed"
    await api.run("sources", "edit", api.partner, "mail", "--secret", input="newest\nnew\nold\n")
    [link] = (await api("/mail/links", {"links": [{"url": "https://a.example"}]}))["items"]
    assert signed_by(link["address"].rpartition("/")[2], [b"newest"])
