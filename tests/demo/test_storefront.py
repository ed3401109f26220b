"""The demo's shop: its pages, what they carry, and where they are."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from pipeline.demo.storefront import Storefront
from pipeline.demo.visits import VISITS


@pytest.fixture
async def shop() -> AsyncIterator[Storefront]:
    made = Storefront(lambda: [{"name": "jackets", "here": 1, "all": 2}])
    made.gateway, made.key = "http://127.0.0.1:1", 'p"<.shop'
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def client(shop: Storefront) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=shop.url, trust_env=False) as made:
        yield made


async def test_every_page_of_the_visits_is_there_and_carries_the_tracker(client: httpx.AsyncClient) -> None:
    paths = {step.target for visit in VISITS for step in visit.steps if step.do == "open"}
    assert len(paths) > 8
    for path in sorted(paths | {"/favourites"}):
        answer = await client.get(path)
        assert answer.status_code == 200, path
        assert 'src="http://127.0.0.1:1/tracker.min.js" data-key="p&quot;&lt;.shop"' in answer.text
        assert "{{" not in answer.text
        # Nothing but the tracker comes from elsewhere.
        assert answer.text.count("http://") == answer.text.count("http://127.0.0.1:1") + 1, "and the icon's namespace"


@pytest.mark.parametrize("path", ["/nothing", "/category/ladders", "/product/JK-99", "/section/none", "/category"])
async def test_other_pages_are_not(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_another_name_of_the_host_leads_to_the_sources_domain(shop: Storefront) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{shop.url}/cart", headers={"host": shop.domain.replace("127.0.0.1", "localhost")})
    assert (answer.status_code, answer.headers["location"]) == (302, f"{shop.url}/cart")


async def test_the_corner_and_the_files(client: httpx.AsyncClient) -> None:
    assert (await client.get("/live")).json() == [{"name": "jackets", "here": 1, "all": 2}]
    assert (await client.get("/shop.css")).headers["content-type"].startswith("text/css")
    assert (await client.get("/shop.js")).headers["content-type"].startswith("text/javascript")
    assert (await client.get("/products.json")).status_code == 404
