"""Secret keys of a source over the admin API, on the real control log."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from test_api_admin import Api, api, control, said, secrets  # noqa: F401  (fixtures)

pytestmark = pytest.mark.kafka


async def test_a_key_is_shown_once_and_kept_as_a_hash(api: Api) -> None:  # noqa: F811
    await api.app_source(id="till", code="till-7", bridge="rest")
    made = await api("POST", "/sources/till/keys", json={"name": "Till 7"})
    assert made.status_code == 201, made.text
    assert made.headers["cache-control"] == "no-store"
    key = made.json()
    assert len(key["secret"]) == 32
    assert "." not in key["secret"]
    assert key["key"] == f"{api.partner}.till-7.{key['secret']}"
    assert key["id"].startswith("till-7-")
    (kept,) = api.control.state.sources[api.partner, "till"].keys
    assert (kept.id, kept.name, kept.created) == (key["id"], "Till 7", key["created"])
    assert kept.hash == hashlib.sha256(key["secret"].encode()).hexdigest()
    shown = await api("GET", "/sources/till")
    assert [set(key) for key in shown.json()["keys"]] == [{"id", "name", "created"}]
    assert kept.hash not in shown.text + (await api("GET", "/sources")).text
    listed = await api("GET", "/sources/till/keys")
    assert listed.json()["items"] == [{"id": key["id"], "name": "Till 7", "created": key["created"], "last_used": None}]
    assert key["secret"] not in listed.text + (await api("GET", "/sources/till")).text


async def test_keys_are_rotated_with_none_missing_in_between(api: Api) -> None:  # noqa: F811
    await api.app_source(id="till")
    old, new = [(await api("POST", "/sources/till/keys", json={"name": "Till"})).json() for _ in range(2)]
    assert old["id"] != new["id"]
    assert old["secret"] != new["secret"]
    assert [key.id for key in api.control.state.sources[api.partner, "till"].keys] == [old["id"], new["id"]]
    left = await api("DELETE", f"/sources/till/keys/{old['id']}")
    assert [key["id"] for key in left.json()["items"]] == [new["id"]]
    assert said(await api("DELETE", f"/sources/till/keys/{old['id']}"))[:2] == (404, "unknown_key")


async def test_who_says_a_version_is_held_to_it_and_who_does_not_never_hears_stale(api: Api) -> None:  # noqa: F811
    await api.app_source(id="till")
    assert said(await api("POST", "/sources/till/keys", json={"name": "A"}, expect=9))[:2] == (409, "stale")
    made = await asyncio.gather(*(api("POST", "/sources/till/keys", json={"name": f"K{n}"}) for n in range(4)))
    assert [answer.status_code for answer in made] == [201] * 4
    assert len(api.control.state.sources[api.partner, "till"].keys) == 4


async def test_a_repeat_makes_no_second_key_and_says_what_to_do(api: Api) -> None:  # noqa: F811
    await api.app_source(id="till")
    headers = {"Idempotency-Key": f"{api.partner}-once"}
    first = await api("POST", "/sources/till/keys", json={"name": "A"}, headers=headers)
    assert first.status_code == 201
    again = await api("POST", "/sources/till/keys", json={"name": "A"}, headers=headers)
    assert said(again)[:2] == (409, "repeated")
    assert first.json()["secret"] not in again.text
    assert len(api.control.state.sources[api.partner, "till"].keys) == 1


async def test_what_is_not_there_has_no_keys_and_ten_are_enough(api: Api) -> None:  # noqa: F811
    assert said(await api("GET", "/sources/none/keys"))[:2] == (404, "unknown_source")
    assert said(await api("POST", "/sources/none/keys", json={"name": "A"}))[:2] == (404, "unknown_source")
    assert said(await api("POST", "/sources/online-store/keys", json={"name": ""})) == (400, "invalid", "$.name")
    for _ in range(10):
        assert (await api("POST", "/sources/online-store/keys", json={"name": "A"})).status_code == 201
    many = await api("POST", "/sources/online-store/keys", json={"name": "A"})
    assert said(many)[:2] == (409, "too_many_keys")
