"""A mailbox as a source, against GreenMail; and what hostile messages become."""

from __future__ import annotations

import hashlib
import imaplib
import json
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest
from eventually import eventually
from feeds_world import World
from greenmail import PASSWORD, USER, GreenMail, greenmail
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bridges.base import BridgeRequest, Refused
from pipeline.bridges.imap import ImapBridge
from pipeline.models.control import Source

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GreenMail]:
    """A mail server for the tests of this file."""
    with greenmail(tmp_path_factory.mktemp("greenmail")) as found:
        yield found


@pytest.fixture
def folder(server: GreenMail, prefix: str) -> str:
    """A mail folder of a test's own."""
    with session(server) as box:
        box.create(prefix)
    return prefix


def session(server: GreenMail) -> imaplib.IMAP4:
    box = imaplib.IMAP4("127.0.0.1", server.imap, timeout=20)
    box.login(USER, PASSWORD)
    return box


def message(number: int, **headers: str) -> EmailMessage:
    made = EmailMessage()
    made["From"] = "Ann Müller <Ann@Example.com>"
    made["To"] = "shop@example.com, other@example.com"
    made["Subject"] = f"Grüße {number}"
    made["Message-ID"] = f"<{number}@example.com>"
    made["Date"] = "Mon, 5 Jan 2026 10:00:00 +0100"
    for name, value in headers.items():
        made[name] = value
    made.set_content(f"Hello,\nI want   {number} jackets.\n")
    return made


def append(server: GreenMail, folder: str, *messages: bytes) -> None:
    with session(server) as box:
        for each in messages:
            assert box.append(folder, None, None, each)[0] == "OK"  # type: ignore[arg-type]


def settings(server: GreenMail, folder: str, **more: Any) -> dict[str, Any]:
    where = {"host": "127.0.0.1", "port": server.imap, "security": "none", "username": USER}
    return where | {"folder": folder, "start": "all", "poll": 1} | more


async def test_messages_become_events_with_attachments_by_metadata_and_stay_unseen(
    world: World, server: GreenMail, folder: str
) -> None:
    world.secrets["box"] = PASSWORD
    letter = message(1)
    letter.add_attachment(b"%PDF-1.7 bytes", maintype="application", subtype="pdf", filename="Bestellung ü.pdf")
    append(server, folder, letter.as_bytes())
    world.put("imap", settings(server, folder), secret="box")
    await world.engine()
    ((name, event),) = await eventually(world.raw)
    assert event["event"] == "Message Received"
    assert event["traits"] == {"email": "ann@example.com"}
    found = event["properties"]
    assert found["subject"] == "Grüße 1"
    assert found["from_name"] == "Ann Müller"
    assert found["to"] == ["shop@example.com", "other@example.com"]
    assert found["message_id"] == "<1@example.com>"
    assert found["text"] == "Hello, I want 1 jackets."
    assert found["attachments"] == [
        {
            "name": "Bestellung ü.pdf",
            "type": "application/pdf",
            "size": 14,
            "sha256": hashlib.sha256(b"%PDF-1.7 bytes").hexdigest(),
        }
    ]
    append(server, folder, message(2).as_bytes(), message(3).as_bytes())
    await eventually(lambda: _count(world, 3), what="new ones, by IDLE or by looking")
    assert len(await world.ids()) == 3
    assert name.endswith("-1")
    with session(server) as box:
        box.select(folder, readonly=True)
        assert box.search(None, "UNSEEN")[1] == [b"1 2 3"]


async def test_a_restart_goes_on_where_it_stood_and_a_kill_repeats_the_id(
    world: World, server: GreenMail, folder: str
) -> None:
    world.secrets["box"] = PASSWORD
    append(server, folder, *(message(n).as_bytes() for n in range(5)))
    world.put("imap", settings(server, folder, seen=True, move=f"{folder}-done"), secret="box")
    with session(server) as box:
        box.create(f"{folder}-done")
    async with world.process(HEADRACE_FAILPOINT="after-commit:1") as first:
        assert await first.wait() == -9
    assert len(await world.raw()) == 5
    append(server, folder, message(5).as_bytes())
    await world.engine()
    await eventually(lambda: _count(world, 6))
    await eventually(lambda: _moved(server, folder) == 1, what="what came after the crash is moved")
    ids = [name for name, _ in await world.raw()]
    assert len(ids) == len(set(ids)) == 6, "the position was committed with the events, so none comes twice"


async def test_only_what_comes_from_now_on_where_that_is_wanted_and_a_mapping(
    world: World, server: GreenMail, folder: str
) -> None:
    world.secrets["box"] = PASSWORD
    append(server, folder, message(1).as_bytes())
    mapping = {"events": [{"event": "Asked", "userId": "$.from", "properties": {"about": "$.subject"}}]}
    world.put("imap", settings(server, folder, start="new", mapping=mapping), secret="box")
    await world.engine()
    await eventually(world.runs)
    append(server, folder, message(2).as_bytes())
    ((_, event),) = await eventually(world.raw)
    assert event == {"type": "track", "event": "Asked", "userId": "ann@example.com", "properties": {"about": "Grüße 2"}}


async def test_of_a_large_message_the_headers_alone_are_taken(world: World, server: GreenMail, folder: str) -> None:
    world.secrets["box"] = PASSWORD
    letter = message(1)
    letter.add_attachment(b"x" * 50_000, maintype="application", subtype="zip", filename="large.zip")
    append(server, folder, letter.as_bytes())
    world.put("imap", settings(server, folder, largest=20_000), secret="box")
    await world.engine()
    ((_, event),) = await eventually(world.raw)
    assert event["properties"]["whole"] is False
    assert event["properties"]["subject"] == "Grüße 1"
    assert event["properties"]["size"] > 50_000
    assert "text" not in event["properties"]


async def test_what_the_server_refuses_is_shown_and_tls_is_checked(
    world: World, server: GreenMail, folder: str
) -> None:
    world.secrets.update({"box": PASSWORD, "wrong": "no"})
    world.put("imap", settings(server, folder), "password", secret="wrong")
    world.put("imap", settings(server, "nowhere"), "folder", secret="box")
    world.put("imap", settings(server, folder, port=server.imaps, security="tls"), "tls", secret="box")
    unchecked = settings(server, folder, port=server.imaps, security="tls", tls={"verify": False})
    world.put("imap", unchecked, "unchecked", secret="box")
    await world.engine()
    for source in ("password", "folder"):
        told = await eventually(lambda source=source: (s := world.status(source)) and s.state == "fault" and s)
        assert "127.0.0.1" in told.reason
    await eventually(lambda: (s := world.status("tls")) and "ertificate" in s.reason)
    await eventually(lambda: world.runs("unchecked"))


def parse(body: bytes, **headers: str) -> dict[str, Any]:
    source = Source(
        id="s", partner="p", name="s", code="s", bridge="imap", version=1, created=0, updated=0,
        settings={"host": "a", "username": "u"},
    )  # fmt: skip
    known = {"imap-size": str(len(body)), "imap-received": "2026-01-01T00:00:00Z", "imap-whole": "1"}
    parsed = ImapBridge().parse(BridgeRequest("feed", known | headers, body, id="1-1"), source, (), 0)
    event: dict[str, Any] = json.loads(parsed.events[0].value)
    return event


def nested(depth: int) -> bytes:
    body = b"From: a@b.c\r\n"
    for number in range(depth):
        body += b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (number, number)
    return body + b"\r\nend"


@pytest.mark.parametrize(
    "body",
    [
        b"From: a@b.c\r\nSubject: =?utf-8?b?////?=\r\n\r\nhi",
        b"From: a@b.c\r\nSubject: =?no-such?q?x?=\r\nContent-Type: text/plain; charset=no-such\r\n\r\n\xff\xfe",
        b"From: a@b.c\r\nContent-Type: text/html\r\n\r\n<b>" + b"<i>" * 50_000,
        b"From: a@b.c\r\nDate: yesterday\r\nContent-Transfer-Encoding: base64\r\n\r\n####",
        b"From: " + b"a@b.c, " * 5000 + b"\r\nTo: " + b"x@y.z," * 20_000 + b"\r\n\r\nhi",
        nested(3),
    ],
)
def test_hostile_messages_are_bounded(body: bytes) -> None:
    event = parse(body)
    assert event["traits"]["email"] == "a@b.c"
    assert len(json.dumps(event)) < 100_000


@pytest.mark.parametrize("body", [b"", b"\0\0\0", nested(60), nested(2000), b"Subject: nobody wrote it\r\n\r\nhi"])
def test_what_is_no_message_is_refused_with_a_reason(body: bytes) -> None:
    with pytest.raises(Refused):
        parse(body)


@given(st.binary(max_size=2000))
def test_no_bytes_make_it_fail(body: bytes) -> None:
    for whole in ("0", "1"):
        for prefix in (b"", b"From: a@b.c\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n"):
            try:
                parse(prefix + body, **{"imap-whole": whole})
            except Refused:
                continue


def _moved(server: GreenMail, folder: str) -> int:
    with session(server) as box:
        return int(box.select(f"{folder}-done", readonly=True)[1][0] or 0)


async def _count(world: World, wanted: int) -> bool:
    return len(await world.raw()) >= wanted
