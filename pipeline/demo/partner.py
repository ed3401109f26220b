"""The demo's partner: sources, segments, the integration and its rules, made over the admin API."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import httpx

__all__ = ["JACKET", "RULES", "SEGMENTS", "SOURCES", "DemoPartner", "Rule"]

JACKET: dict[str, Any] = {
    "event": "Category Viewed",
    "where": [{"property": "category", "op": "equals", "value": "Jacket"}],
    "count": {"op": ">=", "value": 1},
}
_MONTH = {"window": {"rolling": "30d"}}
_ORDERED: dict[str, Any] = {"event": "Order Completed"} | _MONTH

#: Id -> name, condition. The first is the question that the product exists for.
SEGMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "jackets-online": ("Viewed jackets in the Online Store, 30 days", JACKET | _MONTH | {"source": "online-store"}),
    "jackets": ("Viewed jackets anywhere, 30 days", JACKET | _MONTH),
    "just-now": ("Viewed jackets in the last 20 s", JACKET | {"window": {"rolling": "20s"}}),
    "buyers": ("Ordered, 30 days", _ORDERED),
    "undecided": ("Viewed jackets and did not order", {"all": [JACKET | _MONTH, {"not": _ORDERED}]}),
    "stargazers": ("Starred on GitHub", {"all": [{"event": "Star Created"}, {"not": {"event": "Star Deleted"}}]}),
}

#: Those beside the `Online Store`, which every partner has.
SOURCES: list[dict[str, str]] = [
    {"id": "app", "name": "Mobile application", "code": "app", "channel": "Mobile", "bridge": "kafka"},
    {"id": "crm", "name": "CRM import", "code": "crm", "channel": "CRM", "bridge": "rest"},
    {"id": "github", "name": "GitHub", "code": "github", "channel": "Community", "bridge": "webhook-github"},
]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as the demo makes it. ``segment``: only for this one, of `Segment Entered`."""

    event: str
    prefix: str = ""
    segment: str | None = None
    enabled: bool = True


RULES: dict[str, Rule] = {
    "orders": Rule("Order Completed", "Shop: "),
    "stars": Rule("Star Created", "GitHub: "),
    "campaign": Rule("Segment Entered", segment="jackets-online"),
    "off": Rule("Product Added", enabled=False),
}


@dataclass
class DemoPartner:
    """What was made. ``sources``: as the API shows them, by id. ``webhook_secret``: of the GitHub source."""

    id: str
    sources: dict[str, dict[str, Any]]
    webhook_secret: str
    api: httpx.AsyncClient

    @classmethod
    async def create(cls, api: str, domain: str, hook: str, hook_secret: str, token: str | None = None) -> DemoPartner:
        """A new partner; ``domain``: the shop's. ``hook``: the receiver's address. The master switches of the
        demo's earlier partners are turned off: their receivers are gone. ``token``: where the API wants one.

        Raises RuntimeError with what the API said when it refuses.
        """
        headers = {"X-Actor": "demo"} | ({"Authorization": f"Bearer {token}"} if token else {})
        client = httpx.AsyncClient(base_url=f"{api}/v1", timeout=30, trust_env=False, headers=headers)
        made = cls(f"demo-{secrets.token_hex(3)}", {}, secrets.token_urlsafe(24), client)
        for partner in (await made.call("GET", "/partners"))["items"]:
            if partner["id"].startswith("demo-") and partner["sending"]:
                await made._edit(f"/partners/{partner['id']}", sending=False)
        await made.call("POST", "/partners", id=made.id, name="Millrace Outfitters")
        await made._edit(f"{made.path}/sources/online-store", domain=domain)
        for source in SOURCES:
            secret = {"secret": made.webhook_secret} if source["id"] == "github" else {}
            await made.call("POST", f"{made.path}/sources", **source, **secret)
        for source in (await made.call("GET", f"{made.path}/sources"))["items"]:
            made.sources[source["id"]] = source
        for segment, (name, condition) in SEGMENTS.items():
            await made.call("POST", f"{made.path}/segments", id=segment, name=name, condition=condition)
        await made.call(
            "POST",
            f"{made.path}/integrations",
            id="receiver",
            name="Local receiver",
            kind="webhook",
            settings={"url": hook},
            secret=hook_secret,
        )
        for name, rule in RULES.items():
            restrictions = [{"property": "segment", "values": [rule.segment]}] if rule.segment else []
            await made.call(
                "POST",
                f"{made.path}/rules",
                id=name,
                event=rule.event,
                integration="receiver",
                prefix=rule.prefix,
                enabled=rule.enabled,
                restrictions=restrictions,
            )
        await made._edit(f"/partners/{made.id}", sending=True)
        return made

    @property
    def path(self) -> str:
        """Its place in the API."""
        return f"/partners/{self.id}"

    async def counts(self) -> dict[str, dict[str, Any]]:
        """Counts by segment id, as the query API answers."""
        return {segment: await self.call("GET", f"{self.path}/segments/{segment}/counts") for segment in SEGMENTS}

    async def call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """One call of the API; the JSON it answers. Raises RuntimeError when it refuses."""
        answer = await self.api.request(method, path, json=body or None)
        if answer.is_error:
            raise RuntimeError(f"the API refuses {method} {path}: {answer.status_code} {answer.text}")
        found: dict[str, Any] = answer.json()
        return found

    async def _edit(self, path: str, **fields: Any) -> None:
        version = (await self.call("GET", path))["version"]
        answer = await self.api.patch(path, json=fields, headers={"If-Match": f'"{version}"'})
        if answer.is_error:
            raise RuntimeError(f"the API refuses PATCH {path}: {answer.status_code} {answer.text}")
