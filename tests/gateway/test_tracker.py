"""The browser tracker in a real Chromium: calls, buffer, delivery, identity, hostile pages; the page-view build."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import datetime
from pathlib import Path

import pytest
from aiohttp import web
from eventually import eventually
from playwright.async_api import BrowserContext, Page
from tracker_world import KEY, SNIPPET, Answer, World, chromium_test, name_of, serving, started, warnings_of

SCHEMAS = Path(__file__).parents[2] / "schemas"
#: Call, what its event is, its properties.
CALLS = [
    ("page('Front', {a: 1})", {"type": "page", "name": "Front"}, {"a": 1}),
    ("product({sku: 'J1', price: 9.5})", {"event": "Product Viewed"}, {"sku": "J1", "price": 9.5}),
    ("category('Jacket', {n: 2})", {"event": "Category Viewed"}, {"category": "Jacket", "n": 2}),
    ("section('Sale')", {"event": "Section Viewed"}, {"section": "Sale"}),
    ("addToCart({sku: 'J1', quantity: 2})", {"event": "Product Added"}, {"sku": "J1", "quantity": 2}),
    ("removeFromCart({sku: 'J1'})", {"event": "Product Removed"}, {"sku": "J1"}),
    ("addToFavourites({sku: 'J2'})", {"event": "Product Added to Wishlist"}, {"sku": "J2"}),
    ("removeFromFavourites({sku: 'J2'})", {"event": "Product Removed from Wishlist"}, {"sku": "J2"}),
    ("order({order_id: 'o1', total: 19})", {"event": "Order Completed"}, {"order_id": "o1", "total": 19}),
    ("track('Searched', {query: '🧥'})", {"event": "Searched"}, {"query": "🧥"}),
    ("push(['track', 'Pushed'], ['section', 'S'])", {"event": "Pushed"}, None),
]


class TestWire:
    pytestmark = chromium_test

    async def test_every_call_is_its_event(self, world: World, page: Page) -> None:
        await started(world, page)
        for call, _, _ in CALLS:
            await page.evaluate(f"headrace.{call}")
        await eventually(lambda: len(world.accepted) == len(CALLS) + 2)
        visit, *events, last = world.accepted
        assert visit["event"] == "Visit Started"
        assert (last["event"], last["properties"]) == ("Section Viewed", {"section": "S"})
        for event, (call, expected, properties) in zip(events, CALLS, strict=True):
            expected = {"type": "track", **expected}
            if expected["type"] == "page":
                shown = {"url": f"{world.site}/", "path": "/", "title": "Page /", "referrer": ""}
                properties = {**shown, **(properties or {})}
            assert {name: event.get(name) for name in expected} == expected, call
            assert event["properties"] == (properties or {}), call
            assert "userId" not in event
            assert "traits" not in event

    @pytest.mark.parametrize(("call", "event"), [("login", "Signed In"), ("register", "Signed Up")])
    async def test_login_and_register_identify_first(self, world: World, page: Page, call: str, event: str) -> None:
        await started(world, page)
        await page.evaluate(f"headrace.{call}(42, {{email: 'a@b.example'}})")
        _, identify, track = await world.until("Visit Started", "identify", event)
        assert (identify["type"], identify["userId"]) == ("identify", "42")
        assert identify["traits"] == {"email": "a@b.example"}
        assert (track["type"], track["event"], track["userId"]) == ("track", event, "42")
        assert track["anonymousId"] == identify["anonymousId"]

    async def test_every_event_of_the_web_catalogue_by_its_name(self, world: World, page: Page) -> None:
        events = json.loads((SCHEMAS / "catalogue/web.json").read_text())["events"]
        await started(world, page)
        await page.evaluate("(names) => names.forEach((name) => headrace.track(name, { name }))", list(events))
        arrived = await world.until("Visit Started", *events)
        assert [event["properties"].get("name") for event in arrived[1:]] == list(events)

    async def test_traits_without_a_user_id(self, world: World, page: Page) -> None:
        await started(world, page)
        await page.evaluate("headrace.identify(null, {phone: '+4312345'})")
        _, identify = await world.until("Visit Started", "identify")
        assert "userId" not in identify
        assert identify["traits"] == {"phone": "+4312345"}

    async def test_load_sends_visit_and_page_view(self, world: World, page: Page) -> None:
        landing = world.add("/landing")
        world.add("/", tag="", after=f'<a href="{landing}?utm_source=mail&utm_campaign=May&x=1">go</a>')
        before = time.time()
        await page.goto(world.site + "/")
        await page.click("a")
        visit, view = await world.until("Visit Started", "page")
        shown = {
            "url": f"{landing}?utm_source=mail&utm_campaign=May&x=1",
            "path": "/landing",
            "title": "Page /landing",
            "referrer": f"{world.site}/",
        }
        campaign = {"source": "mail", "name": "May"}
        for event in (visit, view):
            session = event["context"].pop("session")
            assert event["context"] == {"page": shown, "campaign": campaign, "locale": "de-AT"}
            assert session == view["context"].get("session", session)
            assert re.fullmatch(r"[\w-]{8,64}", event["anonymousId"])
            assert 8 <= len(event["messageId"]) < 100
            assert abs(event["timestamp"] / 1000 - before) < 60
        assert visit["properties"] == {**shown, "campaign": campaign}
        assert view["properties"] == shown
        assert (view["type"], visit["type"]) == ("page", "track")
        assert visit["messageId"] != view["messageId"]
        (hit,) = world.hits
        assert hit.body.keys() == {"writeKey", "sentAt", "batch"}
        assert hit.body["writeKey"] == KEY
        assert _seconds(hit.body["sentAt"]) >= view["timestamp"] / 1000
        assert hit.headers["Content-Type"].startswith("text/plain")
        assert world.methods == ["POST"], "no CORS preflight"

    async def test_without_auto_the_first_call_starts_the_visit(self, world: World, page: Page) -> None:
        await started(world, page)
        await page.evaluate("headrace.track('First')")
        events = await world.until("Visit Started", "First")
        assert [name_of(event) for event in events] == ["Visit Started", "First"]

    async def test_included_twice_counts_once(self, world: World, page: Page) -> None:
        await page.goto(world.add("/", world.tag() + world.tag()))
        await page.wait_for_load_state()
        await page.evaluate("headrace.track('Last')")
        await world.until("Visit Started", "page", "Last")

    async def test_endpoint_attribute(self, world: World, page: Page) -> None:
        elsewhere = World()
        app = web.Application()
        app.router.add_post("/collect/v1/batch", elsewhere.take)
        async with serving(app) as port:
            tag = world.tag(f'data-endpoint="http://127.0.0.1:{port}/collect/"')
            await page.goto(world.add("/", tag))
            await elsewhere.until("Visit Started", "page")
        assert not world.hits


class TestBuffer:
    pytestmark = chromium_test

    async def test_calls_before_load_are_kept(self, world: World, page: Page) -> None:
        world.script.clear()
        after = "<script>kept = headrace; headrace.category('Jacket'); headrace.push(['track', 'B'])</script>"
        await page.goto(world.add("/", after=after), wait_until="commit")
        await page.wait_for_function("window.headrace && headrace.length == 2")
        world.script.set()
        await page.wait_for_function("!Array.isArray(headrace)")
        await page.evaluate("kept.push(['track', 'C']); kept.track('D'); headrace.track('E')")
        await world.until("Visit Started", "page", "Category Viewed", "B", "C", "D", "E")
        assert world.names == ["Visit Started", "page", "Category Viewed", "B", "C", "D", "E"]

    async def test_a_plain_array_buffers_too(self, world: World, page: Page) -> None:
        before = "<script>headrace = window.headrace || []; headrace.push(['login', 'u1'])</script>"
        await page.goto(world.add("/", before=before))
        events = await world.until("Visit Started", "page", "identify", "Signed In")
        assert events[-1]["userId"] == "u1"

    async def test_no_snippet_is_needed(self, world: World, page: Page) -> None:
        await page.goto(world.add("/", before="<div id=headrace></div>"))
        await world.until("Visit Started", "page")


class TestDelivery:
    pytestmark = chromium_test

    async def test_leaving_right_after_a_call(self, world: World, page: Page) -> None:
        await started(world, page)
        world.add("/next", tag="")
        await page.evaluate(f"headrace.track('Clicked'); location.href = '{world.site}/next'")
        await world.until("Visit Started", "Clicked")

    async def test_closing_right_after_a_call(self, world: World, page: Page) -> None:
        await started(world, page)
        await page.evaluate("headrace.order({order_id: 'o1'})")
        await page.close()
        await world.until("Visit Started", "Order Completed")

    async def test_closing_with_more_than_keepalive_takes(self, world: World, context: BrowserContext) -> None:
        closing = await context.new_page()
        await started(world, closing)
        # 150 KB, of which a browser lets 64 KiB outlive the page.
        await closing.evaluate("for (let i = 0; i < 10; i++) headrace.track('E' + i, {text: 'x'.repeat(15_000)})")
        await closing.close()
        await eventually(lambda: world.accepted)
        page = await context.new_page()
        await page.clock.install(time=time.time() + 10)
        await page.goto(world.add("/next"))
        await page.clock.run_for(400)
        events = [f"E{i}" for i in range(10)]
        await eventually(lambda: set(events) <= set(world.names), what="what was left, from the next page")
        assert sorted(world.names) == sorted(["Visit Started", "page", *events])
        assert max(len(hit.raw) for hit in world.hits) < 65_536

    async def test_what_a_closed_page_could_not_send_the_next_one_sends(self, world: World, page: Page) -> None:
        await page.clock.install(time="2030-01-01T00:00:00Z")
        await started(world, page)
        await page.evaluate("void (window.fetch = () => Promise.reject(new TypeError('cut off')))")
        await page.evaluate("headrace.track('Kept')")
        await page.goto(world.add("/next"))
        await page.clock.run_for(400)
        await world.until("page")
        await page.clock.fast_forward("00:06")
        await page.evaluate("headrace.track('Later')")
        await page.clock.run_for(400)
        await world.until("page", "Visit Started", "Kept", "Later")
        assert not world.doubled

    async def test_503_twice_then_200(self, world: World, page: Page) -> None:
        world.answers.extend([Answer(503), Answer(503)])
        await page.goto(world.add("/"))
        await world.until("Visit Started", "page")
        assert [hit.status for hit in world.hits] == [503, 503, 200]
        ids = [[event["messageId"] for event in hit.events] for hit in world.hits]
        assert ids[0] == ids[1] == ids[2]
        first, second, third = (hit.at for hit in world.hits)
        assert second - first >= 0.5
        assert third - second >= 1.0

    @pytest.mark.parametrize("status", [429, 503])
    async def test_it_is_asked_again_when_told_by_all_pages(self, world: World, page: Page, status: int) -> None:
        world.answers.append(Answer(status, {"Retry-After": "3"}))
        await page.goto(world.add("/"))
        await page.wait_for_function(f"localStorage['hr.{KEY}.w']")
        await page.goto(world.add("/next"))
        await page.evaluate("document.title")
        await world.until("Visit Started", "page", "page")
        refused, *later = world.hits
        assert refused.status == status
        assert all(hit.at - refused.at >= 3.0 for hit in later)

    @pytest.mark.parametrize("said", ["-5", "soon", "Infinity"])
    async def test_a_senseless_retry_after_does_no_harm(self, world: World, page: Page, said: str) -> None:
        world.answers.append(Answer(429, {"Retry-After": said}))
        await page.goto(world.add("/"))
        await eventually(lambda: world.hits)
        if said == "Infinity":
            paused = await eventually(lambda: page.evaluate(f"+localStorage['hr.{KEY}.w']"))
            assert 0 < paused - time.time() * 1000 <= 3_602_000
        else:
            await world.until("Visit Started", "page")
            assert world.hits[1].at - world.hits[0].at >= 0.5

    async def test_offline_then_online(self, world: World, page: Page) -> None:
        await page.clock.install(time="2030-01-01T00:00:00Z")
        await started(world, page)
        await page.clock.pause_at("2030-01-01T01:00:00Z")  # no back-off ends: only being online can send it
        await page.context.set_offline(True)
        async with page.expect_event("requestfailed"):
            await page.evaluate("headrace.track('In the tunnel')")
            await page.clock.run_for(400)
        await page.context.set_offline(False)
        await world.until("Visit Started", "In the tunnel")

    async def test_a_refused_key_warns_and_is_not_retried(self, world: World, page: Page) -> None:
        await started(world, page)
        warnings = warnings_of(page)
        world.answers.append(Answer(401, message="no source has the code shop-1"))
        await page.evaluate("headrace.track('Refused')")
        await eventually(lambda: warnings)
        assert "no source has the code shop-1" in warnings[0]
        await page.evaluate("headrace.track('Later')")
        await world.until("Later")
        assert [name_of(e) for hit in world.hits for e in hit.events] == ["Visit Started", "Refused", "Later"]

    async def test_a_partly_refused_batch_warns(self, world: World, page: Page) -> None:
        await started(world, page)
        warnings = warnings_of(page)
        world.answers.append(Answer(message="the second one has no name"))
        await page.evaluate("headrace.track('A')")
        await eventually(lambda: warnings)
        assert "the second one has no name" in warnings[0]
        await page.evaluate("headrace.track('B')")
        await world.until("Visit Started", "A", "B")
        assert len(warnings) == 1

    async def test_a_long_queue_goes_in_order_in_requests_of_bounded_size(self, world: World, page: Page) -> None:
        await started(world, page)
        await page.evaluate("for (let i = 0; i < 60; i++) headrace.track('E' + i, {text: '🧥'.repeat(1000)})")
        names = ["Visit Started", *(f"E{i}" for i in range(60))]
        await world.until(*names)
        assert world.names == names
        assert len(world.hits) > 3
        assert max(len(hit.raw) for hit in world.hits) < 65_536
        await page.wait_for_function("!Object.keys(localStorage).some((key) => key.includes('.e.'))")

    async def test_no_more_than_500_events_are_kept(self, world: World, page: Page) -> None:
        world.answers.append(Answer(503))
        await started(world, page)
        await page.evaluate("for (let i = 0; i < 600; i++) headrace.track('E' + i)")
        await world.until(*(f"E{i}" for i in range(100, 600)))

    async def test_events_older_than_deduplication_are_not_sent_again(self, world: World, page: Page) -> None:
        world.default = Answer(503)
        await page.clock.install(time="2030-01-01T00:00:00Z")
        await started(world, page)
        await page.evaluate("headrace.track('Old')")
        await page.clock.run_for(400)
        await eventually(lambda: world.hits)
        await page.clock.fast_forward("25:00:00")
        await page.goto(world.add("/next", world.tag('data-auto="false"')))
        await page.wait_for_function("!Array.isArray(window.headrace)")
        await page.evaluate("headrace.track('New')")
        world.default = Answer()

        async def arrived() -> bool:
            await page.clock.run_for(1000)
            return "New" in world.names

        await eventually(arrived)
        assert "Old" not in world.names

    async def test_tabs_neither_lose_nor_double(self, world: World, context: BrowserContext) -> None:
        tabs = [await context.new_page() for _ in range(3)]
        for number, tab in enumerate(tabs):
            await started(world, tab, f"/{number}")
        calls = "for (let i = 0; i < 20; i++) headrace.track(`T{}.${{i}}`)"
        await asyncio.gather(*(tab.evaluate(calls.format(number)) for number, tab in enumerate(tabs)))
        expected = [f"T{number}.{i}" for number in range(3) for i in range(20)]
        await eventually(lambda: set(expected) <= set(world.names))
        assert sorted(name for name in world.names if name != "Visit Started") == sorted(expected)
        for tab in tabs:
            await tab.wait_for_function("!Object.keys(localStorage).some(key => key.includes('.e.'))")
        assert not world.doubled


class TestIdentity:
    pytestmark = chromium_test

    async def test_anonymous_id_is_stable_over_pages(self, world: World, page: Page) -> None:
        await page.goto(world.add("/"))
        await world.until("Visit Started", "page")
        await page.goto(world.add("/b"))
        events = await world.until("Visit Started", "page", "page")
        (known,) = {event["anonymousId"] for event in events}
        (cookie,) = [c for c in await page.context.cookies() if c["name"] == "hr_aid"]
        assert cookie["value"] == known
        assert cookie["sameSite"] == "Lax"
        assert abs(cookie["expires"] - time.time() - 365 * 86_400) < 600
        assert len({event["context"]["session"] for event in events}) == 1

    async def test_a_lost_cookie_is_restored(self, world: World, page: Page) -> None:
        await page.goto(world.add("/"))
        first, _ = await world.until("Visit Started", "page")
        await page.context.clear_cookies()
        await page.reload()
        events = await world.until("Visit Started", "page", "page")
        assert events[-1]["anonymousId"] == first["anonymousId"]
        assert [c["value"] for c in await page.context.cookies()] == [first["anonymousId"]]

    async def test_the_servers_cookie_is_adopted_and_left_alone(self, world: World, page: Page) -> None:
        cookie = {"name": "hr_aid", "value": "srv-0123456789", "url": world.site, "expires": 4_000_000_000}
        await page.goto(world.add("/"))
        await world.until("Visit Started", "page")
        await page.context.add_cookies([cookie])  # type: ignore[list-item]
        before = await page.context.cookies()
        await page.reload()
        events = await world.until("Visit Started", "page", "page")
        assert events[-1]["anonymousId"] == "srv-0123456789"
        assert await page.context.cookies() == before

    @pytest.mark.parametrize("value", ["x", "a" * 3000, "%F0%9F%A7%A5-not-ours", "<script>alert(1)</script>"])
    async def test_a_strange_cookie_is_not_adopted(self, world: World, page: Page, value: str) -> None:
        cookie = {"name": "hr_aid", "value": value, "url": world.site}
        await page.context.add_cookies([cookie])  # type: ignore[list-item]
        await page.goto(world.add("/"))
        events = await world.until("Visit Started", "page")
        (known,) = {event["anonymousId"] for event in events}
        assert re.fullmatch(r"[\d-]{8,64}", known)

    async def test_identify_persists_and_reset_forgets(self, world: World, page: Page) -> None:
        await started(world, page)
        await page.evaluate("headrace.identify('u-7', {email: 'u7@b.example'})")
        await page.goto(world.add("/next"))
        events = await world.until("Visit Started", "identify", "page")
        assert [event.get("userId") for event in events] == ["u-7"] * 3
        await page.evaluate("headrace.reset(); headrace.track('After')")
        events = await world.until("Visit Started", "identify", "page", "Visit Started", "After")
        assert "userId" not in events[-1]
        assert events[-1]["anonymousId"] != events[0]["anonymousId"]
        assert events[-1]["context"]["session"] != events[0]["context"]["session"]
        await page.reload()
        await eventually(lambda: len(world.accepted) == 6)
        assert world.accepted[-1]["anonymousId"] == events[-1]["anonymousId"]

    async def test_another_user_is_another_person(self, world: World, page: Page) -> None:
        await started(world, page)
        await page.evaluate("headrace.login('u1'); headrace.identify('u1'); headrace.login('u2')")
        await eventually(lambda: world.names.count("Signed In") == 2)
        by_user = {
            user: {event["anonymousId"] for event in world.accepted if event["userId"] == user} for user in ("u1", "u2")
        }
        assert len(by_user["u1"]) == len(by_user["u2"]) == 1
        assert by_user["u1"] != by_user["u2"]

    async def test_a_visit_ends_after_30_idle_minutes(self, world: World, page: Page) -> None:
        await page.clock.install(time="2030-01-01T00:00:00Z")
        await started(world, page)
        await page.evaluate("headrace.track('A')")
        await page.clock.fast_forward("29:00")
        await page.evaluate("headrace.track('B')")
        await page.clock.fast_forward("29:00")
        await page.evaluate("headrace.track('C')")
        await page.clock.fast_forward("31:00")
        await page.evaluate("headrace.track('D')")
        await page.clock.run_for(400)
        events = await world.until("Visit Started", "A", "B", "C", "Visit Started", "D")
        assert [name_of(event) for event in events] == ["Visit Started", "A", "B", "C", "Visit Started", "D"]
        sessions = [event["context"]["session"] for event in events]
        assert len(set(sessions[:4])) == len(set(sessions[4:])) == 1
        assert sessions[0] != sessions[4]


class TestHostile:
    """Nothing of this may throw into the page (the fixture `page` sees to it), nor stop what comes after."""

    pytestmark = chromium_test

    async def test_properties(self, world: World, page: Page) -> None:
        await started(world, page)
        warnings = warnings_of(page)
        await page.evaluate(
            """() => {
              const circular = {}; circular.self = circular;
              headrace.track('Circular', circular);
              headrace.track('Window', {window});
              headrace.track('BigInt', {n: 1n});
              headrace.track('Thrower', {get x() { throw new Error('mine'); }});
              headrace.track('Huge', {text: 'x'.repeat(5e6)});
              headrace.track(Symbol('s'));
              headrace.login(Symbol('s'));
              headrace.push(null, [], ['nothing'], ['__proto__'], 7);
            }"""
        )
        assert len(warnings) >= 11
        await page.evaluate("headrace.track('🧥\\ud800\\u0000</script>', {'💥': ['\\ud83d', null, undefined, NaN]})")
        await eventually(lambda: "🧥\ud800\u0000</script>" in world.names)
        assert world.accepted[-1]["properties"] == {"💥": ["\ud83d", None, None, None]}
        assert not {"Circular", "Window", "BigInt", "Thrower", "Huge"} & set(world.names)

    @pytest.mark.parametrize(
        "attributes",
        [
            'data-key="🧥}],&quot;$&amp;" data-auto="🧥"',
            f'data-key="{"k" * 100_000}"',
            'data-key="a.b" data-endpoint="javascript:alert(1)"',
            'data-key="a.b" data-endpoint="https://"',
            'data-key=""',
            "",
        ],
    )
    async def test_attributes(self, world: World, page: Page, attributes: str) -> None:
        warnings = warnings_of(page)
        dialogs: list[object] = []
        page.on("dialog", lambda dialog: dialogs.append(dialog))
        tag = f'<script async src="{world.gateway}/tracker.min.js" {attributes}></script>'
        if attributes in ("", 'data-key=""'):
            world.answers.append(Answer(401, message="the request names no source"))
        await page.goto(world.add("/", tag))
        await page.wait_for_load_state()
        await page.evaluate("headrace.track('A')")
        if "$" in attributes:
            await world.until("Visit Started", "page", "A")
            assert world.hits[0].body["writeKey"] == '🧥}],"$&'
        elif attributes in ("", 'data-key=""'):
            await eventually(lambda: warnings)
            assert "the request names no source" in warnings[0]
        assert not dialogs

    async def test_blocked_storage(self, world: World, page: Page) -> None:
        await page.add_init_script(
            """for (const [owner, name] of [[window, 'localStorage'], [Document.prototype, 'cookie']])
                 Object.defineProperty(owner, name, {get() { throw new Error('blocked'); }})"""
        )
        await page.goto(world.add("/"))
        await page.wait_for_function("!Array.isArray(window.headrace)")
        await page.evaluate("headrace.login('u1')")
        events = await world.until("Visit Started", "page", "identify", "Signed In")
        assert len({event["anonymousId"] for event in events}) == 1
        assert events[-1]["userId"] == "u1"

    async def test_full_storage(self, world: World, page: Page) -> None:
        fill = (
            "for (let n = 2 ** 22, i = 0; n >= 1; ) try { localStorage['f' + i++] = 'x'.repeat(n) } catch { n >>= 1 }"
        )
        await page.goto(world.add("/", before=f"<script>{fill}</script>" + SNIPPET))
        await page.wait_for_function("!Array.isArray(window.headrace)")
        await page.evaluate("headrace.track('A'); headrace.track('B')")
        events = await world.until("Visit Started", "page", "A", "B")
        assert len({event["anonymousId"] for event in events}) == 1

    async def test_plain_http(self, world: World, page: Page) -> None:
        world.add("/")
        await page.goto(world.site.replace("127.0.0.1", "shop.test") + "/")
        assert not await page.evaluate("isSecureContext")
        await world.until("Visit Started", "page")
        await page.evaluate("headrace.track('A')")
        events = await world.until("Visit Started", "page", "A")
        assert len({event["anonymousId"] for event in events}) == 1
        assert not await page.context.cookies(), "a cookie that is sent in the clear"


class TestPageBuild:
    pytestmark = chromium_test

    async def test_visit_and_page_view(self, world: World, page: Page) -> None:
        world.answers.append(Answer(503))
        await page.clock.install()
        await page.goto(world.add("/", world.tag(build="tracker.page.min.js"), before=""))
        await eventually(lambda: world.hits)
        await page.clock.run_for(10_001)
        visit, view = await world.until("Visit Started", "page")
        assert [event["messageId"] for event in world.hits[0].events] == [visit["messageId"], view["messageId"]]
        assert world.hits[0].body["writeKey"] == KEY
        assert view["properties"]["path"] == "/"
        await page.goto(world.add("/full"))
        events = await world.until("Visit Started", "page", "page")
        assert len({(e["anonymousId"], e["context"]["session"]) for e in events}) == 1

    async def test_a_refusal_is_final(self, world: World, page: Page) -> None:
        world.answers.append(Answer(403))
        await page.clock.install()
        await page.goto(world.add("/", world.tag(build="tracker.page.min.js"), before=""))
        await eventually(lambda: world.hits)
        await page.clock.run_for(60_000)
        await page.reload()
        await world.until("page")
        assert len(world.hits) == 2


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
