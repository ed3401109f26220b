"""A partner's customers in columns equal the rows of the index, whatever changed between two looks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.query import mirror
from pipeline.query.mirror import Mirror
from pipeline.stream.store import Store, Table

KEYS = [f"{partner}|{kind}|{n}" for partner in ("acme", "acme2", "acm") for kind in "ua" for n in range(4)]


def row(key: str, plan: int, segments: dict[str, list[str]]) -> dict[str, Any]:
    memberships = {name: {"version": 1, "since": 1000 + plan, "scopes": scopes} for name, scopes in segments.items()}
    found = {"id": key, "partner": key.partition("|")[0], "identifiers": [key], "traits": {"plan": plan}}
    return found | {"segments": memberships, "first_seen": 1, "last_seen": 2 + plan}


_scopes = st.lists(st.sampled_from(["*", "s:web", "c:Web"]), unique=True)
_values = (
    st.none() | st.just("redirect") | st.tuples(st.integers(0, 9), st.dictionaries(st.sampled_from("xyz"), _scopes))
)
_looks = st.lists(st.lists(st.tuples(st.sampled_from(KEYS), _values), max_size=8), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(looks=_looks)
def test_columns_equal_rows(tmp_path_factory: Any, looks: list[list[tuple[str, Any]]]) -> None:
    asyncio.run(_compare(tmp_path_factory.mktemp("mirror"), looks))


def _ms(moment: Any) -> int:
    return round(moment.timestamp() * 1000)


async def _compare(folder: Path, looks: list[list[tuple[str, Any]]]) -> None:
    store = Store(folder / "store", {"customers": Table("customers", None)})
    mirror._CHUNK, mirror._MOST_DIRTY = 2, 5
    made = Mirror(store, "acme")
    rows: dict[str, Any] = {}
    written: dict[int, int] = {}
    try:
        for number, changes in enumerate(looks):
            for key, value in changes:
                if isinstance(value, tuple):
                    value = row(key, *value)
                elif value is not None:
                    value = {"redirect": "acme|u|0", "since": 7}
                rows[key] = value
                encoded = None if value is None else orjson.dumps(value)
                store.write({"customers": {key.encode(): encoded}}, {"customers:0": number})
                made.changed(key.encode(), encoded)
                written = {0: number}
            customers, members, identities, positions = await made.look()
            assert positions == written
            ours = [value for key, value in rows.items() if value and "id" in value and key.startswith("acme|")]
            found = {each["customer"]: orjson.loads(each["traits"])["plan"] for each in customers.to_pylist()}
            assert found == {value["id"]: value["traits"]["plan"] for value in ours}
            assert customers.num_rows == len(found)
            known = {
                key: (value["redirect"], 7) if "redirect" in value else (key, 1)
                for key, value in rows.items()
                if value and key.startswith("acme|")
            }
            told = [(each["identifier"], (each["customer"], _ms(each["since"]))) for each in identities.to_pylist()]
            assert sorted(told) == sorted(known.items())
            told = sorted((m["customer"], m["segment"], m["scope"], m["name"] or "") for m in members.to_pylist())
            assert told == sorted(
                (
                    value["id"],
                    segment,
                    *{"*": ("all", ""), "s:web": ("source", "web"), "c:Web": ("channel", "Web")}[scope],
                )
                for value in ours
                for segment, each in value["segments"].items()
                for scope in each["scopes"]
            )
    finally:
        store.close()
