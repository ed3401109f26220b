"""Tools that do not speak JSON over HTTP, against real ones: mail servers, PostgreSQL, S3, a folder."""

from __future__ import annotations

import asyncio
import email
import imaplib
from collections.abc import Iterator
from datetime import UTC, datetime
from email.policy import default
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psycopg
import pyarrow.parquet as pq
import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from eventually import eventually
from feeds.greenmail import PASSWORD, GreenMail, greenmail
from moto.server import ThreadedMotoServer
from postgres_server import postgres_server
from tool_world import NOW, dispatch

from pipeline.settings import Settings
from pipeline.sinks.base import BatchSink, Classified, SetupError
from pipeline.sinks.http import NoAnswer
from pipeline.sinks.mail import Mail
from pipeline.sinks.registry import sink
from pipeline.sinks.transports import Transports


def transports(**changes: Any) -> Transports:
    return Transports(Settings(allow_networks="127.0.0.0/8", **changes))


async def tell(kind: str, settings: dict[str, Any], secret: str | None, *told: Any, **process: Any) -> Classified:
    """Send as the engine does; what the answer means."""
    tool = sink(kind)
    config = tool.config(settings)
    if isinstance(tool, BatchSink):
        asked = tool.request_of([tool.part(each, config, NOW) for each in told], config, secret, NOW)
    else:
        asked = tool.request(told[0], config, secret, NOW)
    assert secret is None or secret not in str(asked.shown())
    carrier = transports(**process)
    await carrier.start()
    try:
        answer = await carrier.send(asked, 15)
    finally:
        await carrier.stop()
    return tool.classify(answer.status, answer.headers, answer.body)


# -- mail ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GreenMail]:
    with greenmail(tmp_path_factory.mktemp("greenmail")) as server:
        yield server


def settings(server: GreenMail, **changes: Any) -> dict[str, Any]:
    base = {
        "host": "127.0.0.1",
        "port": server.smtp,
        "tls": "none",
        "from": "Shop <shop@shop.example>",
        "subject": "Order {$.event.properties.order_id} of {$.customer.traits.first_name}",
        "text": "Thank you, {$.customer.traits.first_name}!",
    }
    return base | changes


def inbox(server: GreenMail) -> list[Any]:
    with imaplib.IMAP4("127.0.0.1", server.imap) as box:
        box.login("shop", PASSWORD)
        box.select()
        _, found = box.search(None, "ALL")
        raw = [box.fetch(number, "(RFC822)")[1][0][1] for number in found[0].split()]  # type: ignore[index]
    return [email.message_from_bytes(each, policy=default) for each in raw]  # type: ignore[arg-type]


async def test_a_mail_arrives_as_its_template_says_and_a_repeat_has_the_same_id(mail: GreenMail) -> None:
    html = "<p>Thank you, {$.customer.traits.first_name}</p>"
    hostile = {"email": "shop@localhost", "traits": {"first_name": "<b>Ada</b>\r\nBcc: eve@evil.example"}}
    told = dispatch(customer=hostile)
    for _ in range(2):
        assert (await tell("smtp", settings(mail, html=html), None, told)).outcome == "ok"
    first, second = await asyncio.to_thread(inbox, mail)
    assert first["Message-ID"] == second["Message-ID"] == f"<{told.id}@shop.example>"
    assert first["Subject"] == "Order o7 of <b>Ada</b> Bcc: eve@evil.example"
    assert first["Bcc"] is None
    assert (first["From"], first["Date"]) == ("Shop <shop@shop.example>", second["Date"])
    assert "&lt;b&gt;Ada&lt;/b&gt;" in first.get_body(("html",)).get_content()
    assert first.get_body(("plain",)).get_content().startswith("Thank you, <b>Ada</b>")


async def test_what_a_mail_server_does_not_offer_is_the_set_ups_fault(mail: GreenMail) -> None:
    with pytest.raises(SetupError):
        await tell("smtp", settings(mail, tls="starttls"), None, dispatch())
    with pytest.raises(NoAnswer) as raised:
        await tell("smtp", settings(mail, tls="tls"), None, dispatch())
    assert not raised.value.sent, "no message was handed over"
    tool = sink("smtp")
    asked = tool.request(dispatch(), tool.config(settings(mail)), None, NOW)
    with pytest.raises(SetupError, match="public"):
        await Transports(Settings()).send(asked, 5)


async def test_the_connection_can_be_asked_without_a_mail(mail: GreenMail) -> None:
    tool = sink("smtp")
    probe = tool.probe(tool.config(settings(mail)), None, NOW)
    assert isinstance(probe, Mail)
    assert (await transports().send(probe, 10)).status == 250


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"from": "nobody"}, "no e-mail address"),
        ({"text": None}, "say what to send"),
        ({"user": "shop"}, "in clear"),
        ({"subject": "{$.x|nonsense}"}, "cast"),
    ],
)
def test_settings_of_a_mail_that_make_no_sense_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SetupError, match=says):
        sink("smtp").config(settings(GreenMail(1, 2, 3), **changes))


@pytest.mark.parametrize("address", [None, "nobody", "a b@shop.example", "a@b@c\r\n", "ä@shop.example"])
def test_a_customer_without_an_address_is_told_nothing(address: str | None) -> None:
    tool = sink("smtp")
    told = dispatch(customer={"email": address, "traits": {}})
    with pytest.raises(ValueError, match="e-mail"):
        tool.request(told, tool.config(settings(GreenMail(1, 2, 3))), None, NOW)


def test_what_a_mail_server_says_means() -> None:
    codes = {250: "ok", 421: "transient", 450: "transient", 550: "invalid", 552: "invalid", 535: "setup", 530: "setup"}
    assert {code: sink("smtp").classify(code, {}, b"").outcome for code in codes} == codes


# -- PostgreSQL ----------------------------------------------------------------------------------------------


async def test_rows_stand_once_in_postgresql_whatever_is_repeated(tmp_path: Path) -> None:
    with postgres_server(tmp_path) as address:
        where = urlsplit(address)
        server = {
            "host": "127.0.0.1",
            "port": where.port,
            "database": "postgres",
            "user": "headrace",
            "sslmode": "disable",
        }
        told = [dispatch(id=f"{n:032}", event={"properties": {"n": n, "odd": "\0'\"; DROP TABLE x"}}) for n in range(3)]
        assert (await tell("postgres", server, None, *told)).outcome == "ok"
        again = dispatch(id=f"{1:032}", event={"properties": {"n": 10, "total": 5}}, replayed=True)
        assert (await tell("postgres", server, None, again, told[0], told[0])).outcome == "ok"
        with psycopg.connect(address) as connection:
            query = (
                "SELECT id, properties->'n', value, replayed, time, traits->>'plan' FROM headrace_events ORDER BY id"
            )
            rows = connection.execute(query).fetchall()
        assert [row[:4] for row in rows] == [
            (f"{0:032}", 0, None, False),
            (f"{1:032}", 10, 5.0, True),
            (f"{2:032}", 2, None, False),
        ]

        assert (rows[0][4].timestamp(), rows[0][5]) == (1_700_000_000.123, "gold")
        # Names are names: no text of the settings is SQL, and what is wrong is told from what may pass.
        with pytest.raises(SetupError):
            sink("postgres").config(server | {"table": "x; DROP TABLE y"})
        assert (await tell("postgres", server | {"create": False, "table": "none"}, None, *told)).outcome == "setup"
        with psycopg.connect(address) as connection:
            connection.execute("CREATE TABLE narrow (id text PRIMARY KEY)")
        assert (await tell("postgres", server | {"table": "narrow"}, None, *told)).outcome == "setup"
        with pytest.raises(SetupError, match="let us in"):
            await tell("postgres", server | {"database": "nowhere"}, None, *told)
    with pytest.raises(NoAnswer):
        await tell("postgres", server, None, *told)


def _scram(address: str) -> None:
    """Everybody needs a password from now on; that of ``told`` is ``right``."""
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE ROLE told LOGIN PASSWORD 'right'")
        connection.execute("GRANT CREATE ON SCHEMA public TO told")
        row = connection.execute("SHOW hba_file").fetchone()
        assert row is not None
        Path(row[0]).write_text("host all told 127.0.0.1/32 scram-sha-256\n")
        connection.execute("SELECT pg_reload_conf()")


async def test_a_tenants_server_gets_no_password_but_the_integrations_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq would send what the operator keeps for its own databases, in the environment or in ~/.pgpass."""
    with postgres_server(tmp_path) as address:
        _scram(address)
        server = {"host": "127.0.0.1", "port": urlsplit(address).port, "database": "postgres", "user": "told"}
        server |= {"sslmode": "disable"}

        async def refused(secret: str | None) -> bool:
            # The server takes its new rules up when it comes to it.
            try:
                await tell("postgres", server, secret, dispatch())
            except SetupError as error:
                return "let us in" in str(error)
            return False

        async def wrong() -> bool:
            return await refused("wrong")

        await eventually(wrong)
        monkeypatch.setenv("PGPASSWORD", "right")
        assert await refused(None)
        monkeypatch.delenv("PGPASSWORD")
        kept = tmp_path / "pgpass"
        kept.write_text("*:*:*:*:right\n")
        kept.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(kept))
        assert await refused(None)
        assert (await tell("postgres", server, "right", dispatch())).outcome == "ok"


# -- Parquet -------------------------------------------------------------------------------------------------


@pytest.fixture
def s3() -> Iterator[dict[str, Any]]:
    """moto's S3 with a bucket; the settings of an integration."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="k",
        aws_secret_access_key="s",
    )
    client.create_bucket(Bucket="told")
    yield {
        "bucket": "told",
        "endpoint": f"http://{host}:{port}",
        "key": "AKID",
        "prefix": "shop/a=b/",
        "client": client,
    }
    server.stop()


async def test_a_batch_is_one_object_of_s3_and_a_repeat_is_the_same(s3: dict[str, Any], tmp_path: Path) -> None:
    client = s3.pop("client")
    told = [dispatch(id=f"{n:032}") for n in range(3)]
    for _ in range(2):
        assert (await tell("s3", s3, "secret", *told)).outcome == "ok"
    [found] = client.list_objects_v2(Bucket="told")["Contents"]
    assert found["Key"].startswith("shop/a=b/date=2023-11-14/")
    client.download_file("told", found["Key"], str(tmp_path / "file"))
    table = pq.read_table(tmp_path / "file")
    assert table["id"].to_pylist() == [each.id for each in told]
    assert (table["value"].to_pylist(), table["name"].to_pylist()) == ([99.5] * 3, ["Order Completed"] * 3)
    assert (await tell("s3", s3 | {"bucket": "nowhere"}, "secret", *told)).outcome == "setup"


def test_a_signature_is_what_awss_own_client_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same request, at the same moment, botocore's."""
    tool = sink("s3")
    assert isinstance(tool, BatchSink)
    config = tool.config({"bucket": "told", "key": "AKID", "prefix": "a=b/"})
    ours = tool.request_of([tool.part(dispatch(), config, NOW)], config, "secret", NOW)
    theirs = AWSRequest(ours.method, ours.url, data=ours.body, headers={"content-type": ours.headers["content-type"]})  # type: ignore[attr-defined]
    moment = datetime.fromtimestamp(NOW / 1000, UTC)
    monkeypatch.setattr(auth, "get_current_datetime", lambda remove_tzinfo=True: moment.replace(tzinfo=None))
    auth.S3SigV4Auth(Credentials("AKID", "secret"), "s3", "us-east-1").add_auth(theirs)
    assert dict(theirs.headers)["Authorization"] == ours.headers["authorization"]  # type: ignore[attr-defined]


async def test_files_stand_below_what_the_operator_allows_and_nowhere_else(tmp_path: Path) -> None:
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    allowed.mkdir()
    other.mkdir()
    (allowed / "way").symlink_to(other)
    told = [dispatch(id=f"{n:032}") for n in range(2)]
    for _ in range(2):
        done = await tell("parquet", {"folder": str(allowed / "shop")}, None, *told, allow_folders=str(allowed))
        assert done.outcome == "ok"
    [file] = (allowed / "shop").rglob("*.parquet")
    assert pq.read_table(file)["id"].to_pylist() == [each.id for each in told]
    assert len([path for path in allowed.rglob("*") if path.is_file()]) == 1
    for folder in (other, allowed / ".." / "other", allowed / "way", Path("/")):
        with pytest.raises(SetupError, match="allows"):
            await tell("parquet", {"folder": str(folder)}, None, *told, allow_folders=str(allowed))
    assert not list(other.rglob("*"))
