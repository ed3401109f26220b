"""SQL through all of it: what was sent is in the tables, by API, command and client; of one partner alone."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import orjson
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from eventually import eventually
from stack import Stack

from pipeline.client import Headrace, QueryError

NOTEBOOK = Path(__file__).parents[2] / "examples" / "segments.ipynb"
JACKETS = {"event": "Viewed", "where": [{"property": "what", "value": "Jacket"}]}
MEMBERS = "SELECT customer, name FROM segment_members WHERE scope = 'source' ORDER BY customer"


async def test_what_was_sent_can_be_asked_in_sql(stack: Stack, tenant: Any) -> None:
    tenant.create("sources", id="web", name="Web", code="web", bridge="rest")
    tenant.create("segments", id="jackets", name="Jackets", condition=JACKETS)
    key = f"{tenant.id}.web"
    batch: list[dict[str, Any]] = [
        {"type": "identify", "userId": f"u{n}", "traits": {"plan": "pro" if n % 2 else "free"}} for n in range(6)
    ]
    batch += [
        {"type": "track", "userId": f"u{n}", "event": "Viewed", "properties": {"what": "Jacket" if n < 4 else "Hat"}}
        for n in range(6)
    ]

    def sent() -> bool:
        answer = httpx.post(f"{stack.gateway}/v1/batch", json={"writeKey": key, "batch": batch}, timeout=30)
        return answer.status_code == 200

    with Headrace(stack.api, tenant.id) as client:

        def told() -> bool:
            assert client.sql("SELECT count(*) FILTER (traits->>'plan' = 'pro') AS pro FROM customers").rows() == [
                {"pro": 3}
            ]
            assert client.sql(MEMBERS).rows() == [{"customer": f"{tenant.id}|u|u{n}", "name": "web"} for n in range(4)]
            counted = client.sql("SELECT customers, anonymous, as_of FROM segment_counts WHERE scope = 'all'").rows()
            assert [(row["customers"], row["anonymous"]) for row in counted] == [(4, 0)]
            return True

        await eventually(sent, 10)
        await eventually(told, 60)
        events = "SELECT name, properties->>'what' AS what, count(*) AS n FROM events GROUP BY ALL ORDER BY ALL"
        seen = [("Identified", None, 6), ("Viewed", "Hat", 2), ("Viewed", "Jacket", 4)]
        await eventually(lambda: _equal([tuple(row.values()) for row in client.sql(events).rows()], seen))
        moved = "SELECT kind, cause, count(*) AS n FROM segment_transitions WHERE segment = 'jackets' GROUP BY ALL"
        await eventually(lambda: client.sql(moved).rows() == [{"kind": "entered", "cause": "event", "n": 4}])
        # What comes after the first look is there at the next.
        batch[:] = [{"type": "track", "userId": "u9", "event": "Viewed", "properties": {"what": "Jacket"}}]
        await eventually(sent, 10)
        await eventually(lambda: client.sql(MEMBERS).table.num_rows == 5, 30)
        steps = client.sql("SELECT name, customers FROM funnel(['Identified', 'Viewed'], INTERVAL 1 DAY)").rows()
        assert [row["customers"] for row in steps] == [6, 6]
        assert client.sql("SELECT count(*) AS n FROM identities").rows() == [{"n": 7}]
        assert client.sql("FROM dead_letters").table.num_rows == 0
        answer = client.sql("SELECT says, definition FROM segments")
        assert answer.as_of is not None
        assert "Viewed" in answer.rows()[0]["says"]
        assert isinstance(answer.polars(), polars.DataFrame)
        assert answer.pandas().shape == (1, 2)
        assert client.sql("FROM range(100)", limit=7).truncated
        assert {"customers", "segment_members", "segment_counts", "sources"} <= client.tables().keys()
        with pytest.raises(QueryError) as refused:
            client.sql("SELECT * FROM read_text('/etc/passwd')")
        assert refused.value.code == "forbidden"

    other = tenant.api.base_url.copy_with(path="/v1/partners")
    name = f"{tenant.id}-other"
    assert httpx.post(other, json={"id": name, "name": "Other"}).status_code == 201
    with Headrace(stack.api, name) as client:
        for table in ("customers", "segment_members", "segment_counts", "segments"):
            assert client.sql(f"SELECT * FROM {table}").table.num_rows == 0
        assert client.sql("SELECT partner FROM partners").rows() == [{"partner": name}]


async def test_an_export_is_of_one_moment_whatever_comes_meanwhile(stack: Stack, tenant: Any) -> None:
    tenant.create("sources", id="web", name="Web", code="web", bridge="rest")
    tenant.create("segments", id="jackets", name="Jackets", condition=JACKETS)

    def sent(first: int, last: int) -> bool:
        events = [
            {"type": "track", "userId": f"u{n:03}", "event": "Viewed", "properties": {"what": "Jacket"}}
            for n in range(first, last)
        ]
        body = {"writeKey": f"{tenant.id}.web", "batch": events}
        return httpx.post(f"{stack.gateway}/v1/batch", json=body, timeout=30).status_code == 200

    def page(**query: Any) -> dict[str, Any]:
        found: dict[str, Any] = tenant.api.get("/segments/jackets/export", params=query).json()
        return found

    await eventually(lambda: sent(0, 25), 10)
    await eventually(lambda: page()["total"] == 25, 60)
    first = page(limit=10, source="web")
    assert sent(25, 40)
    await eventually(lambda: page()["total"] == 40, 60)
    items, last = list(first["items"]), first
    while last["next"] is not None:
        last = page(limit=10, source="web", pin=last["pin"], after=last["next"])
        assert (last["total"], last["positions"]) == (25, first["positions"])
        items += last["items"]
    assert [item["customer"] for item in items] == [f"{tenant.id}|u|u{n:03}" for n in range(25)]
    assert tenant.api.get("/segments/jackets/export", params={"pin": "0" * 32}).json()["code"] == "unpinned"
    assert page(channel="Elsewhere")["items"] == []
    parquet = tenant.api.get("/segments/jackets/export", params={"format": "parquet"})
    table = pq.read_table(io.BytesIO(parquet.content))
    assert (table.num_rows, table.column_names[:2]) == (40, ["customer", "since"])
    assert parquet.headers["x-headrace-positions"]
    text = _headrace(stack, tenant.id, "jackets", command=("segments", "export")).stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["identifiers"] for row in rows] == [f"{tenant.id}|u|u{n:03}" for n in range(40)]


def test_every_form_of_an_answer(stack: Stack, tenant: Any) -> None:
    query = {
        "query": "SELECT 1 AS n, 'a,\"b' AS t, NULL AS nothing, true AS yes, 1.5::DECIMAL(4, 2) AS d, "
        "TIMESTAMPTZ '2026-01-31 09:00:00+01' AS at, [1, NULL] AS l, sum(range) AS s FROM range(3)"
    }
    made = tenant.api.post("/sql", json=query).json()
    assert made["rows"] == [[1, 'a,"b', None, True, 1.5, "2026-01-31T08:00:00+00:00", [1, None], 3]]
    assert [column["name"] for column in made["columns"]] == ["n", "t", "nothing", "yes", "d", "at", "l", "s"]
    lines = tenant.api.post("/sql", params={"format": "csv"}, json=query).text.split("\r\n")
    assert lines == ["n,t,nothing,yes,d,at,l,s", '1,"a,""b",,true,1.5,2026-01-31T08:00:00+00:00,"[1,null]",3', ""]
    arrow = tenant.api.post("/sql", params={"format": "arrow"}, json=query).content
    assert pa.ipc.open_stream(io.BytesIO(arrow)).read_all().column_names == [c["name"] for c in made["columns"]]
    problem = tenant.api.post("/sql", json={"query": "SELEC 1"})
    assert (problem.status_code, problem.json()["code"], problem.json()["path"]) == (400, "invalid", "$.query")
    late = tenant.api.post(
        "/sql", json={"query": "SELECT count(*) FROM range(9999999) a, range(9999999) b", "seconds": 0.2}
    )
    assert (late.status_code, late.json()["code"]) == (408, "timeout")


def test_the_command(stack: Stack, tenant: Any) -> None:
    made = _headrace(stack, tenant.id, "SELECT code, active FROM sources WHERE code = 'app'", "--format", "json")
    assert orjson.loads(made.stdout) == [{"code": "app", "active": True}]
    assert "as of" in made.stderr
    assert "traits" in _headrace(stack, tenant.id).stdout
    assert _headrace(stack, tenant.id, "SELECT 1 AS n", "--format", "csv").stdout == "n\n1\n"
    assert "one statement" in _headrace(stack, tenant.id, "SELECT 1; SELECT 2").stderr


def _headrace(stack: Stack, *words: str, command: tuple[str, ...] = ("sql",)) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "pipeline.cli.main", *command, *words, "--api", stack.api]
    return subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)


def test_the_notebook_runs(stack: Stack, tenant: Any) -> None:
    tenant.create("segments", id="jackets", name="Jackets", condition=JACKETS)
    cells = orjson.loads(NOTEBOOK.read_bytes())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for source in sources:
        exec(source.replace("http://127.0.0.1:8081", stack.api).replace('"acme"', repr(tenant.id)), names)
    assert names["answer"].pandas().to_dict("records")[0]["segment"] == "Jackets"


def _equal(found: Any, wanted: Any) -> bool:
    assert found == wanted
    return True
