"""What the webhook sink sends, verified by the Standard Webhooks' libraries for Python, JavaScript, Go and Rust."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clients.npm_modules import run_node, wanted_modules
from standardwebhooks import Webhook
from tool_world import dispatch, vendor

from pipeline.settings import Settings
from pipeline.sinks.base import Request
from pipeline.sinks.registry import sink
from pipeline.sinks.transports import Transports

pytestmark = pytest.mark.faults

HERE = Path(__file__).parent / "verifiers"
SECRETS = ["whsec_" + base64.b64encode(text * 16).decode() for text in (b"ab", b"cd")]
STRANGE = {"note": "\N{PARTY POPPER} \u2028 \\u0000 </script>", "deep": [{"a": [None, 1.5, True]}]}


async def messages() -> list[tuple[dict[str, Any], bool]]:
    """As they came over HTTP; and whether a verifier should take each."""
    tool, made = sink("webhook"), []
    carrier = Transports(Settings(allow_networks="127.0.0.0/8"))
    await carrier.start()
    with vendor() as (address, calls):
        config = tool.config({"url": address + "/hook"})
        now = int(time.time() * 1000)
        for secret, moment in ((SECRETS[0], now), (" ".join(SECRETS), now), (SECRETS[0], now - 600_000)):
            told = dispatch(event={"properties": STRANGE})
            request = tool.request(told, config, secret, moment)
            assert isinstance(request, Request)
            assert (await carrier.send(request, 10)).status == 200
        await carrier.stop()
        for call in calls:
            names = ("webhook-id", "webhook-timestamp", "webhook-signature")
            made.append({"headers": {name: call.headers[name] for name in names}, "body": call.body.decode()})
    one, rotating, old = made
    return [
        ({"secret": SECRETS[0]} | one, True),
        ({"secret": SECRETS[1]} | one, False),
        ({"secret": SECRETS[0]} | rotating, True),
        ({"secret": SECRETS[1]} | rotating, True),
        ({"secret": SECRETS[0]} | old, False),
        ({"secret": SECRETS[0]} | one | {"body": one["body"].replace("99", "98").replace("o7", "o8") + " "}, False),
    ]


def built(program: str, *command: str, folder: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    done = subprocess.run([program, *command], cwd=folder, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]


def run(path: Path, given: list[dict[str, Any]]) -> list[bool]:
    lines = "\n".join(json.dumps(each) for each in given)
    done = subprocess.run([str(path)], input=lines, capture_output=True, text=True, timeout=60, check=True)
    return [line == "true" for line in done.stdout.split()]


async def in_python(given: list[dict[str, Any]], folder: Path) -> list[bool]:
    def good(each: dict[str, Any]) -> bool:
        try:
            Webhook(each["secret"]).verify(each["body"], each["headers"])
        except Exception:
            return False
        return True

    return [good(each) for each in given]


async def in_javascript(given: list[dict[str, Any]], folder: Path) -> list[bool]:
    wanted_modules()
    found: list[bool] = (await run_node("standard_webhooks.mjs", {"messages": given}))["good"]
    return found


async def in_go(given: list[dict[str, Any]], folder: Path) -> list[bool]:
    built("go", "build", "-o", str(folder / "verifier"), ".", folder=HERE / "go")
    return run(folder / "verifier", given)


async def in_rust(given: list[dict[str, Any]], folder: Path) -> list[bool]:
    built("cargo", "build", "--release", "--target-dir", str(folder), folder=HERE / "rust")
    return run(folder / "release" / "verifier", given)


@pytest.mark.parametrize("verify", [in_python, in_javascript, in_go, pytest.param(in_rust, marks=pytest.mark.slow)])
async def test_the_standards_own_libraries_take_what_is_right_and_nothing_else(
    verify: Callable[..., Any], tmp_path: Path
) -> None:
    told = await messages()
    assert await verify([message for message, _ in told], tmp_path) == [right for _, right in told]
