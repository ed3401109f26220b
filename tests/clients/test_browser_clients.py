"""Segment's, RudderStack's and Jitsu's clients, as they are, in a real Chromium, through the gateway to Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from chromium_args import CHROMIUM_ARGS
from client_payloads import NO_NULLS, RICH, STAMP, WHEN
from client_site import Site, site_of
from eventually import eventually
from faulty_front import LOST, Fault, Front
from landed_events import Landed, differences, name_of
from npm_modules import version_of
from playwright.async_api import Browser, Page, async_playwright

pytestmark = [pytest.mark.kafka, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]

#: Runs calls, given as [method, ...arguments], one after the other on `window.client`.
RUN = "async (calls) => { for (const [method, ...args] of calls) await client[method](...args) }"
#: Runs them without waiting for any.
START = "(calls) => { for (const [method, ...args] of calls) void client[method](...args) }"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(modules: Path) -> AsyncIterator[Site]:
    async with site_of(modules) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, site: Site, front: Front) -> AsyncIterator[Page]:
    """A tab with a profile of its own, which asks nobody but the site and the gateway, and has no exception."""
    context = await browser.new_context(locale="de-AT")
    page = await context.new_page()
    errors: list[str] = []
    strangers: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    context.on(
        "request",
        lambda request: None if request.url.startswith((site.url, front.url)) else strangers.append(request.url),
    )
    yield page
    await context.close()
    assert errors == []
    assert strangers == []


async def taken(front: Front, count: int, timeout: float = 20.0) -> list[dict[str, Any]]:
    """The events that the gateway has said yes to, when there are as many as ``count``, in order."""

    def events() -> list[dict[str, Any]]:
        return [event for hit in front.posts() if hit.status == 200 for event in hit.events]

    await eventually(lambda: len(events()) >= count, timeout, what=f"{count} events, got {len(events())}")
    return events()


async def as_sent(gateway: Any, source: Any, front: Front, names: Sequence[str]) -> dict[str, Landed]:
    """What landed, by name, when all ``names`` have: each once, and to the letter as the client put it on the wire."""
    sent = {event["messageId"]: event for event in await taken(front, len(names))}
    found = await gateway.landed(source)
    assert sorted(name_of(each.raw) for each in found) == sorted(names)
    for each in found:
        wire = {**sent[each.raw["messageId"]]}
        if wire.get("writeKey", "").endswith(":***"):
            wire["writeKey"] = source.key
        assert differences(wire, each.raw) == []
        assert each.event["ua"]
        assert each.headers["headrace_origin"] == each.raw["context"]["page"]["url"].rpartition("/")[0]
    return {name_of(each.raw): each for each in found}


def recent(each: Landed, before: datetime) -> bool:
    return before.timestamp() * 1000 <= each.event["time"] <= each.event["received"]


# Segment's analytics.js 2.0.

SEGMENT: list[list[Any]] = [
    ["identify", "u-1", {"email": "ada@example.org", **RICH}],
    ["track", "Product Viewed", RICH, {"timestamp": STAMP, "context": {"app": {"name": "Till"}}}],
    ["page", "Docs", "Home", {"x": 1}],
    ["screen", "App", "Start", {"x": 1}],
    ["group", "g-1", {"plan": "gold"}],
    ["alias", "u-2", "u-1"],
]
SEGMENT_NAMES = ["identify", "Product Viewed", "page", "screen", "group", "alias"]


async def load_segment(page: Page, site: Site, front: Front, key: str, settings: bool, **delivery: Any) -> None:
    """The npm package's own bundle; its settings from the gateway, or given by hand."""
    await page.goto(f"{site.url}/?utm_source=mail")
    await page.add_script_tag(url=f"{site.url}/npm/@segment/analytics-next/dist/umd/index.js")
    given: dict[str, Any] = {"writeKey": key, "cdnURL": front.url}
    segment: dict[str, Any] = {"deliveryStrategy": delivery} if delivery else {}
    if not settings:
        given["cdnSettings"] = {"integrations": {"Segment.io": {"apiKey": key}}}
        segment |= {"apiHost": f"{front.host}/v1", "protocol": "http"}
    await page.evaluate(
        "([given, segment]) => { window.client = AnalyticsNext.AnalyticsBrowser.load(given, "
        "{ integrations: { 'Segment.io': segment } }) }",
        [given, segment],
    )


def assert_segment(found: dict[str, Landed], before: datetime) -> None:
    identify, track, view, screen, group, alias = (found[name] for name in SEGMENT_NAMES)
    assert differences({"userId": "u-1", "traits": {"email": "ada@example.org", **RICH}}, identify.raw) == []
    assert identify.event["email"] == "ada@example.org"
    assert differences({"userId": "u-1", "properties": RICH, "timestamp": WHEN}, track.raw) == []
    assert track.raw["context"]["app"] == {"name": "Till"}
    assert abs(track.event["time"] - WHEN.timestamp() * 1000) < 10_000
    assert differences({"name": "Home", "category": "Docs", "properties": {"x": 1, "name": "Home"}}, view.raw) == []
    assert differences({"name": "Start", "category": "App", "properties": {"x": 1}}, screen.raw) == []
    assert differences({"groupId": "g-1", "traits": {"plan": "gold"}, "userId": "u-1"}, group.raw) == []
    assert alias.raw["previousId"] == "u-1"
    library = {"name": "analytics.js", "version": f"next-{version_of('@segment/analytics-next')}"}
    for each in found.values():
        assert each.raw["context"]["library"] == library
        assert each.raw["context"]["campaign"] == {"source": "mail"}
        assert each.raw["anonymousId"] == identify.raw["anonymousId"]
        assert each is track or recent(each, before)


async def test_every_call_of_analytics_next_one_by_one(gateway: Any, front: Front, site: Site, page: Page) -> None:
    source = await gateway.source("js", domain=site.domain)
    before = datetime.now(UTC) - timedelta(seconds=1)
    await load_segment(page, site, front, source.key, settings=True)
    await page.evaluate(RUN, SEGMENT)
    assert_segment(await as_sent(gateway, source, front, SEGMENT_NAMES), before)
    assert [hit.path for hit in front.hits if hit.method == "GET"] == [f"/v1/projects/{source.key}/settings"]
    assert [hit.path for hit in front.posts()] == [f"/v1/{name}" for name in "itpsga"]
    assert {hit.headers["content-type"] for hit in front.posts()} == {"text/plain"}
    assert {hit.basic for hit in front.posts()} == {f"{source.key}:"}
    asked = {hit.headers["access-control-request-headers"] for hit in front.preflights}
    assert asked == {"authorization"}


async def test_every_call_of_analytics_next_in_batches(gateway: Any, front: Front, site: Site, page: Page) -> None:
    source = await gateway.source("js", domain=site.domain)
    before = datetime.now(UTC) - timedelta(seconds=1)
    batches = {"strategy": "batching", "config": {"size": 3, "timeout": 200}}
    await load_segment(page, site, front, source.key, settings=False, **batches)
    await page.evaluate(RUN, SEGMENT)
    assert_segment(await as_sent(gateway, source, front, SEGMENT_NAMES), before)
    assert {hit.path for hit in front.posts()} == {"/v1/b"}
    assert len(front.posts()) < len(SEGMENT)
    assert not [hit for hit in front.hits if hit.method == "GET"]


#: As Segment's documentation has it (snippet 5.2.0), but for the two addresses.
SNIPPET = """<!doctype html><title>Shop</title><script>
!function(){var i="analytics",analytics=window[i]=window[i]||[];if(!analytics.initialize)if(analytics.invoked)
window.console&&console.error&&console.error("Segment snippet included twice.");else{analytics.invoked=!0;
analytics.methods=["trackSubmit","trackClick","trackLink","trackForm","pageview","identify","reset","group","track",
"ready","alias","debug","page","screen","once","off","on","addSourceMiddleware","addIntegrationMiddleware",
"setAnonymousId","addDestinationMiddleware","register"];analytics.factory=function(e){return function(){
if(window[i].initialized)return window[i][e].apply(window[i],arguments);var n=Array.prototype.slice.call(arguments);
if(["track","screen","alias","group","page","identify"].indexOf(e)>-1){var c=document.querySelector(
"link[rel='canonical']");n.push({__t:"bpc",c:c&&c.getAttribute("href")||void 0,p:location.pathname,u:location.href,
s:location.search,t:document.title,r:document.referrer})}n.unshift(e);analytics.push(n);return analytics}};
for(var n=0;n<analytics.methods.length;n++){var key=analytics.methods[n];analytics[key]=analytics.factory(key)}
analytics.load=function(key,n){var t=document.createElement("script");t.type="text/javascript";t.async=!0;
t.setAttribute("data-global-segment-analytics-key",i);t.src="/npm/@segment/analytics-next/dist/umd/standalone.js";
var r=document.getElementsByTagName("script")[0];r.parentNode.insertBefore(t,r);analytics._loadOptions=n};
analytics._writeKey="KEY";analytics._cdn="GATEWAY";analytics.SNIPPET_VERSION="5.2.0";
analytics.load("KEY");
analytics.page();
}}();
analytics.identify("u-1", {plan: "gold"}); analytics.track("Bought", {total: 9.5});
</script><p>Jackets</p>"""


async def test_segments_snippet_with_calls_before_it_has_loaded(
    gateway: Any, front: Front, site: Site, page: Page
) -> None:
    source = await gateway.source("js", domain=site.domain)
    site.pages["/snippet"] = SNIPPET.replace("KEY", source.key).replace("GATEWAY", front.url)
    await page.goto(f"{site.url}/snippet")
    found = await as_sent(gateway, source, front, ["page", "identify", "Bought"])
    assert found["Bought"].raw["properties"] == {"total": 9.5}
    assert found["page"].raw["properties"]["path"] == "/snippet"
    assert {each.raw["anonymousId"] for each in found.values()} == {found["page"].raw["anonymousId"]}


@pytest.mark.parametrize("strategy", ["standard", "batching"])
async def test_what_failed_in_analytics_next_is_sent_again_and_counts_once(
    gateway: Any, front: Front, site: Site, page: Page, strategy: str
) -> None:
    source = await gateway.source("js", domain=site.domain)
    delivery = {"strategy": "batching", "config": {"size": 2, "timeout": 100}} if strategy == "batching" else {}
    await load_segment(page, site, front, source.key, settings=True, **delivery)
    front.faults.extend([Fault(503, 1), Fault(429, 1), LOST])
    await page.evaluate(START, [["track", f"E{n}", {"n": n}] for n in range(4)])
    events = await taken(front, 4)
    ids = {event["messageId"]: event["event"] for event in events}
    assert sorted(ids.values()) == ["E0", "E1", "E2", "E3"]
    statuses = [hit.status for hit in front.posts()]
    assert (statuses.count(503), statuses.count(429), statuses.count(0)) == (1, 1, 1)
    found = await gateway.landed(source)
    assert {each.raw["messageId"]: each.raw["event"] for each in found} == ids
    # It says how often it has tried, which the preflight before the first attempt has let it.
    assert "1" in {hit.headers.get("x-retry-count") for hit in front.posts()}


async def test_analytics_next_sends_what_waits_when_the_page_is_left(
    gateway: Any, front: Front, site: Site, page: Page
) -> None:
    source = await gateway.source("js", domain=site.domain)
    batches = {"strategy": "batching", "config": {"size": 100, "timeout": 60_000}}
    await load_segment(page, site, front, source.key, settings=True, **batches)
    await page.evaluate(RUN, [["track", f"E{n}"] for n in range(5)])
    assert front.posts() == []
    await page.goto(f"{site.url}/?left")
    await as_sent(gateway, source, front, [f"E{n}" for n in range(5)])
    assert [hit.path for hit in front.posts()] == ["/v1/b"]


# RudderStack's SDK 3.

RUDDER: list[list[Any]] = [
    ["identify", "u-1", {"email": "ada@example.org", **RICH}],
    ["track", "Product Viewed", RICH, {"originalTimestamp": STAMP, "context": {"app": {"name": "Till"}}}],
    ["page", "Docs", "Home", {"x": 1}],
    ["group", "g-1", {"plan": "gold"}],
    ["alias", "u-2", "u-1"],
]
RUDDER_NAMES = ["identify", "Product Viewed", "page", "group", "alias"]
RUDDER_MODES: dict[str, tuple[dict[str, Any], str]] = {
    "single": ({}, "/v1/{type}"),
    "batch": ({"queueOptions": {"batch": {"enabled": True, "maxItems": 3, "flushInterval": 200}}}, "/v1/batch"),
    "beacon": ({"useBeacon": True, "beaconQueueOptions": {"flushQueueInterval": 300}}, "/beacon/v1/batch"),
}


async def load_rudder(page: Page, site: Site, front: Front, key: str, **options: Any) -> None:
    await page.goto(f"{site.url}/?utm_source=mail")
    await page.add_script_tag(url=f"{site.url}/npm/@rudderstack/analytics-js/dist/npm/modern/bundled/umd/index.js")
    await page.evaluate(
        "([key, url, options]) => { window.client = new rudderanalytics.RudderAnalytics(); "
        "client.load(key, url, options) }",
        [key, front.url, {"configUrl": front.url, **options}],
    )


@pytest.mark.parametrize("mode", RUDDER_MODES)
async def test_every_call_of_rudderstacks_client(gateway: Any, front: Front, site: Site, page: Page, mode: str) -> None:
    options, path = RUDDER_MODES[mode]
    source = await gateway.source("js", domain=site.domain)
    before = datetime.now(UTC) - timedelta(seconds=1)
    await load_rudder(page, site, front, source.key, **options)
    await page.evaluate(START, RUDDER)
    found = await as_sent(gateway, source, front, RUDDER_NAMES)
    identify, track, view, group, alias = (found[name] for name in RUDDER_NAMES)
    traits = {"email": "ada@example.org", **NO_NULLS}
    assert differences({"userId": "u-1", "context": {"traits": traits}}, identify.raw) == []
    assert identify.event["email"] == "ada@example.org"
    assert differences({"userId": "u-1", "properties": NO_NULLS, "originalTimestamp": WHEN}, track.raw) == []
    assert abs(track.event["time"] - WHEN.timestamp() * 1000) < 10_000
    assert differences({"name": "Home", "category": "Docs", "properties": {"x": 1, "name": "Home"}}, view.raw) == []
    assert differences({"groupId": "g-1", "traits": {"plan": "gold"}, "userId": "u-1"}, group.raw) == []
    assert differences({"previousId": "u-1", "userId": "u-2"}, alias.raw) == []
    for each in found.values():
        library = {"name": "RudderLabs JavaScript SDK", "version": version_of("@rudderstack/analytics-js")}
        assert differences(library, each.raw["context"]["library"]) == []
        assert each.raw["anonymousId"] == identify.raw["anonymousId"]
        assert each is track or recent(each, before)
    assert {hit.path for hit in front.posts()} == {path.format(type=call[0]) for call in RUDDER}
    [config] = [hit for hit in front.hits if hit.method == "GET"]
    assert (config.path, config.query["writeKey"], config.status) == ("/sourceConfig/", source.key, 200)
    if mode == "beacon":
        assert {hit.query["writeKey"] for hit in front.posts()} == {source.key}
        assert not any(hit.basic for hit in front.posts())
    else:
        assert {hit.basic for hit in front.posts()} == {f"{source.key}:"}
        before_posts = [hit for hit in front.preflights if hit.path != config.path]
        asked = {hit.headers["access-control-request-headers"] for hit in before_posts}
        assert asked == {"anonymousid,authorization,content-type,sentat"}


async def test_what_failed_in_rudderstacks_client_is_sent_again_and_counts_once(
    gateway: Any, front: Front, site: Site, page: Page
) -> None:
    source = await gateway.source("js", domain=site.domain)
    quick = {"minRetryDelay": 100, "backoffFactor": 1.5, "backoffJitter": 0.1}
    await load_rudder(page, site, front, source.key, queueOptions=quick)
    front.faults.extend([Fault(503, 1), Fault(429, 1), LOST])
    await page.evaluate(START, [["track", f"E{n}", {"n": n}] for n in range(4)])
    events = await taken(front, 4)
    ids = {event["messageId"]: event["event"] for event in events}
    assert sorted(ids.values()) == ["E0", "E1", "E2", "E3"]
    found = await gateway.landed(source)
    assert {each.raw["messageId"]: each.raw["event"] for each in found} == ids
    # It tells what became of the attempts before, and the preflight lets it.
    assert "1" in {hit.headers.get("rsa-retry-attempt") for hit in front.posts()}


# Jitsu's client.

JITSU: list[list[Any]] = [
    ["identify", "u-1", {"email": "ada@example.org", **RICH}],
    ["track", "Product Viewed", RICH],
    ["page", {"name": "Home", "x": 1}],
    ["group", "g-1", {"plan": "gold"}],
]


async def load_jitsu(page: Page, site: Site, front: Front, key: str) -> None:
    await page.goto(f"{site.url}/?utm_source=mail")
    await page.evaluate(
        "async ([module, host, writeKey]) => { const { jitsuAnalytics } = await import(module); "
        "window.client = jitsuAnalytics({ host, writeKey }) }",
        [f"{site.url}/npm/@jitsu/js/dist/jitsu.es.js", front.url, f"{key}:any"],
    )


async def test_every_call_of_jitsus_client(gateway: Any, front: Front, site: Site, page: Page) -> None:
    source = await gateway.source("js", domain=site.domain)
    before = datetime.now(UTC) - timedelta(seconds=1)
    await load_jitsu(page, site, front, source.key)
    await page.evaluate(RUN, JITSU)
    found = await as_sent(gateway, source, front, ["identify", "Product Viewed", "page", "group"])
    assert differences({"traits": {"email": "ada@example.org", **RICH}}, found["identify"].raw) == []
    assert found["Product Viewed"].raw["properties"] == RICH
    assert differences({"name": "Home", "x": 1}, found["page"].raw["properties"]) == []
    assert differences({"groupId": "g-1", "traits": {"plan": "gold"}}, found["group"].raw) == []
    for each in found.values():
        assert each.raw["userId"] == "u-1"
        assert each.raw["anonymousId"]
        library = {"name": "@jitsu/js", "version": version_of("@jitsu/js")}
        assert differences(library, each.raw["context"]["library"]) == []
        assert recent(each, before)
    assert [hit.path for hit in front.posts()] == [f"/api/s/{call[0]}" for call in JITSU]
    assert {hit.headers["access-control-request-headers"] for hit in front.preflights} == {"content-type,x-write-key"}


async def test_jitsus_script_with_calls_before_it_has_loaded(
    gateway: Any, front: Front, site: Site, page: Page, modules: Path
) -> None:
    """The script takes the address it came from for the gateway's; so what stands before the gateway serves it."""
    source = await gateway.source("js", domain=site.domain)
    front.files["/p.js"] = modules / "@jitsu/js/dist/web/p.js.txt"
    site.pages["/jitsu"] = (
        "<!doctype html><title>Shop</title><script>window.jitsuQ = window.jitsuQ || []; "
        "jitsuQ.push((jitsu) => jitsu.track('Bought', { total: 9.5 }))</script>"
        f'<script async src="{front.url}/p.js" data-write-key="{source.key}:any"></script>'
    )
    await page.goto(f"{site.url}/jitsu")
    found = await as_sent(gateway, source, front, ["page", "Bought"])
    assert found["Bought"].raw["properties"] == {"total": 9.5}
    assert found["page"].raw["properties"]["path"] == "/jitsu"
    assert found["page"].raw["anonymousId"] == found["Bought"].raw["anonymousId"]


# A browser whose clock is wrong.


@pytest.mark.parametrize(("client", "hours"), [("segment", 3), ("rudder", -3), ("jitsu", 3)])
async def test_a_browsers_wrong_clock_is_corrected(
    gateway: Any, front: Front, site: Site, page: Page, client: str, hours: int
) -> None:
    source = await gateway.source("js", domain=site.domain)
    before = datetime.now(UTC)
    await page.clock.set_fixed_time(before + timedelta(hours=hours))
    if client == "segment":
        await load_segment(page, site, front, source.key, settings=True)
    elif client == "rudder":
        await load_rudder(page, site, front, source.key)
    else:
        await load_jitsu(page, site, front, source.key)
    await page.evaluate(START, [["track", "Bought"]])
    each = (await as_sent(gateway, source, front, ["Bought"]))["Bought"]
    claimed = datetime.fromisoformat(each.raw.get("timestamp") or each.raw["originalTimestamp"])
    assert abs(claimed - before - timedelta(hours=hours)) < timedelta(minutes=1)
    assert recent(each, before - timedelta(seconds=1))
    assert "future" not in each.event.get("flags", [])
