"""GitHub's own JavaScript signs a delivery, and our bridge takes it; and the other way round."""

from __future__ import annotations

import json
from pathlib import Path

from npm_modules import run_node

from pipeline.bridges.base import BridgeRequest
from pipeline.bridges.github import GitHubBridge, sign
from pipeline.models.control import Source

SOURCE = Source(
    id="gh", partner="acme", name="GitHub", code="gh", bridge="webhook-github", version=1, created=0, updated=0
)


async def test_octokit_and_ours_agree(modules: Path) -> None:
    secret, body = "It's a Secret to Everybody", json.dumps({"action": "created", "sender": {"login": "ada😀"}})
    theirs = sign(secret.encode(), body.encode())
    told = await run_node("octokit.mjs", {"secret": secret, "body": body, "theirs": theirs})
    assert told == {"signature": theirs, "verified": True}
    headers = {
        "x-github-event": "star",
        "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "x-hub-signature-256": told["signature"],
    }
    request = BridgeRequest("webhook", headers, body.encode())
    [out] = GitHubBridge().parse(request, SOURCE, [secret.encode()], 0).events
    assert out.message_id == headers["x-github-delivery"]
