"""The commands over a served API: what people type, and what they are told."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from control_topics import make_control_topics
from eventually import eventually
from ports import free_port
from typer.testing import CliRunner, Result

from pipeline.api.app import create_app
from pipeline.api.role import serve
from pipeline.cli.main import COMMANDS, app
from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka

LEAF: dict[str, Any] = {"event": "Category Viewed", "count": {"op": ">=", "value": 1}, "window": {"rolling": "30d"}}


class Cli:
    """Runs commands in a thread, since the API is served on the test's loop."""

    def __init__(self, address: str, control: ControlLog, secrets: Secrets) -> None:
        self.address, self.control, self.secrets = address, control, secrets

    async def run(self, *arguments: str, input: str = "") -> Result:
        env = {"HEADRACE_API": self.address, "HEADRACE_API_TOKEN": "", "COLUMNS": "200", "NO_COLOR": "1"}
        return await asyncio.to_thread(CliRunner().invoke, app, list(arguments), input=input, env=env)

    async def __call__(self, *arguments: str, input: str = "") -> Any:
        result = await self.run(*arguments, "--json", input=input)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    async def refused(self, *arguments: str) -> str:
        result = await self.run(*arguments)
        assert result.exit_code == 1, result.output
        assert result.stdout == ""
        assert result.stderr.startswith("headrace: ")
        assert result.stderr.count("\n") == 1
        return result.stderr


@pytest.fixture
async def cli(kafka: Kafka) -> AsyncIterator[Cli]:
    await make_control_topics(kafka)
    control, secrets, stop = ControlLog(kafka), Secrets(kafka, [os.urandom(32)]), asyncio.Event()
    await control.start()
    await secrets.start()
    settings = Settings(api_port=free_port())
    address = f"http://127.0.0.1:{settings.api_port}"
    serving = asyncio.create_task(serve(create_app(control, secrets, settings), settings, stop))
    async with httpx.AsyncClient() as http:

        async def ready() -> bool:
            if serving.done():
                serving.result()
            return (await http.get(f"{address}/readyz")).status_code == 200

        await eventually(ready, 10.0)
    yield Cli(address, control, secrets)
    stop.set()
    await serving
    await secrets.stop()
    await control.stop()


@pytest.mark.kafka
async def test_partners(cli: Cli, prefix: str) -> None:
    made = await cli("partners", "add", "Acme [Outdoor] 😀", "--id", prefix)
    assert (made["id"], made["name"], made["sending"]) == (prefix, "Acme [Outdoor] 😀", False)
    assert (await cli("partners", "switch", prefix, "on"))["sending"] is True
    assert (await cli("partners", "edit", prefix, "--name", "Acme"))["version"] == 3
    assert (await cli("partners", "show", prefix))["name"] == "Acme"
    assert prefix in [partner["id"] for partner in await cli("partners", "list")]
    table = (await cli.run("partners", "list")).stdout
    assert prefix in table
    assert "yes" in table
    assert "already" in await cli.refused("partners", "add", "Again", "--id", prefix)


@pytest.mark.kafka
async def test_sources(cli: Cli, prefix: str) -> None:
    await cli("partners", "add", "Acme", "--id", prefix)
    app_ = await cli("sources", "add", prefix, "Mobile [app]", "--code", "mobile", "--channel", "Mobile")
    assert (app_["id"], app_["key"], app_["topic"]) == (
        "mobile-app",
        f"{prefix}.mobile",
        f"raw.{prefix}.mobile-app",
    )
    edited = await cli("sources", "edit", prefix, "mobile-app", "--domain", "m.example", "--version", "1")
    assert (edited["domain"], edited["code"], edited["version"]) == ("m.example", "mobile", 2)
    assert (await cli("sources", "edit", prefix, "mobile-app", "--domain", ""))["domain"] is None
    assert (await cli("sources", "switch", prefix, "mobile-app", "off"))["active"] is False
    table = (await cli.run("sources", "list", prefix)).stdout
    assert "Mobile [app]" in table, "square brackets are no markup"
    assert "Online Store" in table
    stale = await cli.refused("sources", "edit", prefix, "mobile-app", "--name", "X", "--version", "1")
    assert "at 4 now" in stale
    taken = await cli.refused("sources", "edit", prefix, "mobile-app", "--code", "online-store")
    assert "choose another (at $.code)" in taken
    assert "switch it off" in await cli.refused("sources", "remove", prefix, "online-store")
    assert (await cli("sources", "remove", prefix, "mobile-app"))["removed"] is True
    assert "was removed" in await cli.refused("sources", "show", prefix, "mobile-app")
    assert [s["id"] for s in await cli("sources", "list", prefix)] == ["online-store"]
    assert len(await cli("sources", "list", prefix, "--removed")) == 2
    assert "no partner" in await cli.refused("sources", "list", f"no-{prefix}")
    assert "Not Found" in await cli.refused("sources", "show", prefix, "../../../readyz")
    usage = await cli.run("sources", "switch", prefix, "online-store", "maybe")
    assert usage.exit_code == 2
    assert "say on or off" in usage.output


@pytest.mark.kafka
async def test_keys_of_a_source(cli: Cli, prefix: str) -> None:
    await cli("partners", "add", "Acme", "--id", prefix)
    made = await cli("sources", "keys", "add", prefix, "online-store", "Till 7")
    assert made["key"] == f"{prefix}.online-store.{made['secret']}"
    shown = await cli.run("sources", "keys", "add", prefix, "online-store", "Till 8")
    assert "only its hash is kept" in shown.stderr
    table = (await cli.run("sources", "keys", "list", prefix, "online-store")).stdout
    assert "Till 7" in table
    assert "Till 8" in table
    left = await cli("sources", "keys", "revoke", prefix, "online-store", made["id"])
    assert [key["name"] for key in left] == ["Till 8"]
    assert "has no key" in await cli.refused("sources", "keys", "revoke", prefix, "online-store", made["id"])


@pytest.mark.kafka
async def test_segments(cli: Cli, prefix: str, tmp_path: Path) -> None:
    await cli("partners", "add", "Acme", "--id", prefix)
    made = await cli("segments", "add", prefix, "Jackets", "--condition", json.dumps(LEAF))
    assert (made["id"], made["condition"]["window"]) == ("jackets", {"rolling": "30d"})
    file = tmp_path / "condition.json"
    file.write_text(json.dumps({"not": LEAF}))
    edited = await cli("segments", "edit", prefix, "jackets", "--condition", f"@{file}")
    assert edited["condition"]["not"]["event"] == "Category Viewed"
    piped = await cli("segments", "edit", prefix, "jackets", "--condition", "-", input=json.dumps({"any": [LEAF]}))
    assert list(piped["condition"]) == ["any"]
    assert (await cli("segments", "switch", prefix, "jackets", "off"))["archived"] is True
    remarks = (await cli.run("segments", "add", prefix, "Odd", "--condition", '{"event": "Mine"}')).stderr
    assert "not in the catalogue" in remarks
    bad = await cli.refused("segments", "add", prefix, "S", "--condition", '{"all": [{"event": ""}]}')
    assert "(at $.condition.all[0].event)" in bad
    assert "is no JSON" in await cli.refused("segments", "add", prefix, "S", "--condition", "{")
    assert "No such file" in await cli.refused("segments", "add", prefix, "S", "--condition", "@/none")
    assert (await cli("segments", "remove", prefix, "jackets"))["id"] == "jackets"
    assert [s["id"] for s in await cli("segments", "list", prefix)] == ["odd"]


@pytest.mark.kafka
async def test_integrations_rules_and_secrets(cli: Cli, prefix: str) -> None:
    await cli("partners", "add", "Acme", "--id", prefix)
    settings = json.dumps({"url": "https://crm.example/hook"})
    arguments = ("integrations", "add", prefix, "Our CRM", "--settings", settings, "--secret")
    made = await cli(*arguments, input="whsec-hunter2\n")
    assert (made["id"], made["kind"]) == ("our-crm", "webhook")
    assert cli.secrets.get(made["secret"]) == "whsec-hunter2"
    assert "hunter2" not in json.dumps(made)
    rule = await cli("rules", "add", prefix, "Order Completed", "our-crm", "--prefix", "shop ")
    assert (rule["id"], rule["prefix"]) == ("order-completed", "shop ")
    restrictions = [{"property": "total", "values": [100, True]}]
    changed = await cli("rules", "edit", prefix, "order-completed", "--restrictions", json.dumps(restrictions))
    assert changed["restrictions"] == restrictions
    assert (await cli("rules", "switch", prefix, "order-completed", "off"))["enabled"] is False
    assert "order-completed" in await cli.refused("integrations", "remove", prefix, "our-crm")
    assert (await cli("integrations", "switch", prefix, "our-crm", "off"))["enabled"] is False
    assert len(await cli("rules", "list", prefix)) == 1
    assert (await cli("rules", "remove", prefix, "order-completed", "--yes"))["id"] == "order-completed"
    assert (await cli("integrations", "remove", prefix, "our-crm"))["removed"] is True
    assert (await cli.run("integrations", "list", prefix)).stdout == "No integration.\n"
    nothing = await cli.run("integrations", "edit", prefix, "our-crm", "--secret", input="\n")
    assert nothing.exit_code == 1
    assert "no secret was given" in nothing.stderr


@pytest.mark.kafka
async def test_a_port_that_is_taken_is_told(cli: Cli) -> None:
    settings = Settings(api_port=int(cli.address.rpartition(":")[2]))
    with pytest.raises(OSError, match="HEADRACE_API_PORT"):
        await serve(create_app(cli.control, cli.secrets, settings), settings, asyncio.Event())


def invoke(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=env)


def test_without_an_api_it_says_how_to_start_one() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    for result in (invoke("partners", "list", "--api", address), invoke("partners", "list", HEADRACE_API=address)):
        assert result.exit_code == 1
        assert "headrace up" in result.stderr
        assert address in result.stderr


@pytest.mark.parametrize("address", ["", "nonsense", "http://", "http://[", "ftp://x"])
def test_a_bad_address_is_told_in_a_line(address: str) -> None:
    result = invoke("partners", "list", "--api", address or "http:///")
    assert result.exit_code == 1
    assert result.stderr.startswith("headrace: ")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nsys.argv = ['headrace', '--help']\nfrom pipeline.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'faust', 'aiokafka', 'fastapi', 'httpx', 'pydantic', 'rich.table'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", ["partners", "sources", "segments", "integrations", "rules"])
def test_every_noun_has_its_verbs(name: str) -> None:
    verbs = {"add", "list", "show", "edit", "switch"} | ({"remove"} if name != "partners" else set())
    for verb in verbs:
        result = invoke(name, verb, "--help")
        assert result.exit_code == 0, result.output
        assert f"{name} {verb}" in result.stdout
    assert invoke(name, "explode").exit_code == 2
