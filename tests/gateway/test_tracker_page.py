"""The tracker in a real Chromium: what the page declares, shows and links to, and what its visitor decides."""

from __future__ import annotations

from pathlib import Path

import pytest
from eventually import eventually
from playwright.async_api import BrowserContext, Page
from tracker_world import KEY, World, chromium_test, name_of, started, warnings_of

READY = "!Array.isArray(window.headrace)"
#: What a browser with Global Privacy Control shows its pages.
GPC = "Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', { get: () => true })"


async def shown(world: World, page: Page, html: str, attributes: str = 'data-auto="false"') -> None:
    """Opens a page with this in it, with the tracker loaded."""
    await page.goto(world.add("/", world.tag(attributes), after=html))
    await page.wait_for_function(READY)


class TestAttributes:
    pytestmark = chromium_test

    async def test_a_click_inside_is_the_event_with_its_properties(self, world: World, page: Page) -> None:
        await shown(
            world,
            page,
            '<button id=other>Other</button><div data-hr-event="Product Added" data-hr-product-id="J1" '
            'data-hr-price="9.5" data-x="y" onclick="event.stopPropagation()"><b>Add</b></div>',
        )
        await page.click("#other")
        await page.click("b", button="right")
        await page.click("b")
        _, added = await world.until("Visit Started", "Product Added")
        assert added["properties"] == {"product_id": "J1", "price": "9.5"}

    async def test_a_link_that_leaves_the_page(self, world: World, page: Page) -> None:
        world.add("/next", tag="")
        await shown(world, page, '<a href="/next" data-hr-event="Banner Clicked" data-hr-banner="May">May</a>')
        await page.click("a")
        _, clicked = await world.until("Visit Started", "Banner Clicked")
        assert clicked["properties"] == {"banner": "May"}
        assert clicked["context"]["page"]["path"] == "/"

    async def test_a_form_tells_what_was_filled_in_and_no_secrets(self, world: World, page: Page) -> None:
        await shown(
            world,
            page,
            """<form id=f data-hr-event="Form Sent" data-hr-form="contact" onsubmit="event.preventDefault()">
              <input name=email value="a@b.example"><textarea name=text>Hello</textarea>
              <input type=checkbox name=topic value=a checked><input type=checkbox name=topic value=b checked>
              <input type=checkbox name=topic value=c><select name=size><option>S<option selected>M</select>
              <input type=password name=secret value=x1><input type=text name=passwd value=x2>
              <input type=text name=code autocomplete=new-password value=x3>
              <input type=hidden name=token value=x4><input type=file name=picture>
              <input name=card autocomplete="billing cc-number" value=x5>
              <input name=pet data-hr-ignore value=x6><input name=off value=x7 disabled>
              <button name=go value=x8>Send</button></form>
              <input form=f type=password name=outside value=x9><input form=f name=also value=y>""",
        )
        await page.click("button")
        _, sent = await world.until("Visit Started", "Form Sent")
        assert sent["properties"] == {
            "form": "contact",
            "email": "a@b.example",
            "text": "Hello",
            "topic": "a,b",
            "size": "M",
            "also": "y",
        }

    async def test_only_what_is_submitted_counts(self, world: World, page: Page) -> None:
        form = (
            '<form data-hr-event="Form Sent" onsubmit="return false"><input name=a required><button>Go</button></form>'
        )
        await shown(world, page, form)
        await page.click("input")
        await page.click("button")  # The browser asks for the field.
        await page.fill("input", "filled")
        await page.press("input", "Enter")
        _, sent = await world.until("Visit Started", "Form Sent")
        assert sent["properties"] == {"a": "filled"}

    async def test_a_form_that_hides_its_own_methods_does_no_harm(self, world: World, page: Page) -> None:
        warnings = warnings_of(page)
        form = '<form data-hr-event="Form Sent" onsubmit="return false"><input name=elements><button>Go</button></form>'
        await shown(world, page, form)
        await page.click("button")
        await eventually(lambda: warnings)
        await page.evaluate("headrace.track('Later')")
        await world.until("Visit Started", "Later")


class TestViews:
    pytestmark = chromium_test

    async def test_pages_that_a_script_shows_are_viewed(self, world: World, page: Page) -> None:
        url = world.add("/")
        await page.goto(url)
        await world.until("Visit Started", "page")
        await page.evaluate("history.pushState({}, '', '/jackets?size=M'); document.title = 'Jackets'")
        await world.until("Visit Started", "page", "page")
        await page.evaluate(
            "history.pushState({}, '', '#reviews'); history.replaceState({}, '', '/jackets?size=M#top')"
        )
        await page.evaluate("history.go(-2)")
        _, _, jackets, back = await world.until("Visit Started", "page", "page", "page")
        assert jackets["properties"] == {
            "url": f"{world.site}/jackets?size=M",
            "path": "/jackets",
            "title": "Jackets",
            "referrer": url,
        }
        assert (back["properties"]["path"], back["properties"]["referrer"]) == ("/", f"{world.site}/jackets?size=M")
        assert len({event["context"]["session"] for event in world.accepted}) == 1

    async def test_not_without_auto(self, world: World, page: Page) -> None:
        await started(world, page)
        await page.evaluate("history.pushState({}, '', '/jackets')")
        await page.evaluate("new Promise((done) => setTimeout(done))")
        await page.evaluate("headrace.track('Last')")
        await world.until("Visit Started", "Last")


class TestVisits:
    pytestmark = chromium_test

    async def test_another_campaign_is_another_visit(self, world: World, page: Page) -> None:
        url = world.add("/")
        for query in ("", "?utm_source=mail&utm_campaign=May+sale", "?utm_campaign_id=7&utm_source=ad", ""):
            await page.goto(url + query)
            await page.wait_for_function(READY)
            await page.reload()
            await page.wait_for_function(READY)
        events = await world.until(*["Visit Started"] * 3, *["page"] * 8)
        mail, ad = {"source": "mail", "name": "May sale"}, {"campaign_id": "7", "source": "ad"}
        views = [event["context"].get("campaign") for event in events if event["type"] == "page"]
        assert views == [None, None, mail, mail, ad, ad, ad, ad]
        visits = [event for event in events if name_of(event) == "Visit Started"]
        assert [visit["properties"].get("campaign") for visit in visits] == [None, mail, ad]
        sessions = [event["context"]["session"] for event in events if event["type"] == "page"]
        assert sessions == [visit["context"]["session"] for visit in visits for _ in range(2)] + sessions[-2:]
        assert sessions[-1] == sessions[-3]


class TestConsent:
    pytestmark = chromium_test

    async def test_all_is_held_until_it_is_granted(self, world: World, page: Page) -> None:
        await page.goto(world.add("/", world.tag('data-consent="required"')))
        await page.wait_for_function(READY)
        await page.evaluate("headrace.login('u1')")
        await page.evaluate("history.pushState({}, '', '/second')")
        await page.evaluate("new Promise((done) => setTimeout(done, 400))")
        assert not world.hits
        assert await page.evaluate("localStorage.length + document.cookie.length") == 0
        await page.evaluate("headrace.consent(true)")
        events = await world.until("Visit Started", "page", "identify", "Signed In", "page")
        assert [event["context"]["page"]["path"] for event in events] == ["/", "/", "/", "/", "/second"]
        assert events[-1]["timestamp"] > events[0]["timestamp"]
        await page.goto(world.add("/next", world.tag('data-consent="required"')))
        events = await world.until("Visit Started", "page", "identify", "Signed In", "page", "page")
        assert events[-1]["userId"] == "u1"

    async def test_a_refusal_forgets_and_stops_all_tabs(self, world: World, context: BrowserContext) -> None:
        other = await context.new_page()
        page = await context.new_page()
        await started(world, other, "/other")
        await started(world, page)
        await page.evaluate("headrace.login('u1')")
        first, *_ = await world.until("Visit Started", "identify", "Signed In")
        await page.evaluate("headrace.track('Not sent yet'); headrace.consent(false); headrace.track('Refused')")
        # Where the tabs are two processes, the browser tells the other one a moment later.
        await other.wait_for_function(f"localStorage['hr.{KEY}.c'] === '0'")
        await other.evaluate("headrace.track('Refused')")
        assert await page.evaluate("({ ...localStorage })") == {f"hr.{KEY}.c": "0"}
        assert await context.cookies() == []
        for build in ("tracker.min.js", "tracker.page.min.js"):
            await page.goto(world.add("/refused", world.tag(build=build)))
            await page.wait_for_load_state()
        await other.evaluate("headrace.consent(true); headrace.track('Granted')")
        await eventually(lambda: "Granted" in world.names)
        assert world.names == ["Visit Started", "identify", "Signed In", "Visit Started", "Granted"]
        assert world.accepted[-1]["anonymousId"] != first["anonymousId"]
        assert "userId" not in world.accepted[-1]

    async def test_the_build_for_page_views_waits_too(self, world: World, page: Page) -> None:
        tag = world.tag('data-consent="required"', build="tracker.page.min.js")
        await page.goto(world.add("/", tag, before=""))
        await page.wait_for_load_state()
        assert await page.evaluate("localStorage.length + document.cookie.length") == 0
        await page.goto(world.add("/full", world.tag('data-consent="required" data-auto="false"')))
        await page.wait_for_function(READY)
        await page.evaluate("headrace.consent(true)")
        await page.goto(world.site + "/")
        _, view = await world.until("Visit Started", "page")
        assert view["properties"]["path"] == "/"


class Sites:
    """One server under three names: two sites of the partner, ``here`` and ``there``, and somebody else's."""

    def __init__(self, world: World) -> None:
        port = world.site.rpartition(":")[2]
        self.world = world
        self.here, self.there, self.foreign = f"127.0.0.1:{port}", f"localhost:{port}", f"foreign.test:{port}"
        self.attributes = f'data-domains="{self.here} {self.there}"'

    def add(self, path: str, html: str = "", more: str = "") -> None:
        self.world.add(path, self.world.tag(f"{self.attributes} {more}"), after=html)

    async def pass_of(self, page: Page) -> str:
        """What a click on a link to ``there`` puts into its address, by a page of ``here``."""
        return await page.evaluate(
            f"""() => {{
              const link = document.createElement('a');
              link.href = 'http://{self.there}/';
              document.body.append(link);
              link.onclick = () => false;
              link.click();
              return link.search;
            }}"""
        )


@pytest.fixture
def sites(world: World) -> Sites:
    return Sites(world)


class TestDomains:
    pytestmark = chromium_test

    async def test_a_link_takes_the_id_along_and_leaves_no_trace(self, world: World, sites: Sites, page: Page) -> None:
        sites.add("/", f'<a href="http://{sites.there}/there?a=%20b&c#d">go</a>')
        sites.add("/there")
        await page.goto(world.site + "/")
        await world.until("Visit Started", "page")
        await page.click("a")
        events = await world.until("Visit Started", "page", "Visit Started", "page")
        assert len({event["anonymousId"] for event in events}) == 1
        assert "&_hr=" in world.opened[-1]
        clean = f"http://{sites.there}/there?a=%20b&c#d"
        assert page.url == clean
        assert [event["context"]["page"]["url"] for event in events[2:]] == [clean, clean]
        cookies = {cookie["domain"]: cookie["value"] for cookie in await page.context.cookies()}
        assert cookies == dict.fromkeys(["127.0.0.1", "localhost"], events[0]["anonymousId"])
        await page.go_back()
        assert await page.evaluate("document.querySelector('a').href") == clean

    async def test_links_to_no_host_stay_as_they_are(self, world: World, page: Page) -> None:
        links = ["mailto:a@b.example?subject=Hi", "tel:+4312345", "javascript:void 0", "#there"]
        html = "".join(f"<a href='{link}' onclick='return seen.push(this.href), false'>x</a>" for link in links)
        await shown(world, page, f"<script>seen = []</script>{html}", 'data-domains=" a.example  b.example "')
        await page.evaluate("document.querySelectorAll('a').forEach((link) => link.click())")
        assert await page.evaluate("seen") == [*links[:3], f"{world.site}/#there"]

    @pytest.mark.parametrize("reason", ["foreign", "same site", "privacy control", "no consent"])
    async def test_no_other_link_does(self, world: World, sites: Sites, page: Page, reason: str) -> None:
        host = {"foreign": sites.foreign, "same site": sites.here}.get(reason, sites.there)
        if reason == "privacy control":
            await page.add_init_script(GPC)
        sites.add(
            "/", f'<a href="http://{host}/next?a=1">go</a>', "data-consent=true" if reason == "no consent" else ""
        )
        world.add("/next", tag="")
        await page.goto(world.site + "/")
        await page.wait_for_function(READY)
        await page.click("a")
        await page.wait_for_url("**/next?a=1")
        assert world.opened == [f"{sites.here}/", f"{host}/next?a=1"]

    @pytest.mark.parametrize(
        "reason", ["good", "old", "another browser", "no such id", "opened directly", "foreign page", "user is known"]
    )
    async def test_an_id_counts_only_as_it_was_given(self, world: World, sites: Sites, page: Page, reason: str) -> None:
        for path in ("/", "/there"):
            sites.add(path, more='data-auto="false"')
        await page.goto(f"http://{sites.there}/there")
        await page.wait_for_function(READY)
        if reason == "user is known":
            await page.evaluate("headrace.identify('u1')")
        await page.evaluate("headrace.track('There')")
        await eventually(lambda: "There" in world.names)
        there = world.accepted[-1]["anonymousId"]

        await page.goto(world.site + "/")
        await page.wait_for_function(READY)
        passed = await sites.pass_of(page)
        given, at, browser = passed.removeprefix("?&_hr=").split(".")
        changed = {
            "old": f"{given}.{int(at) - 121_000}.{browser}",
            "another browser": f"{given}.{at}.{browser}1",
            "no such id": f"x;domain=test.{at}.{browser}",
        }.get(reason, f"{given}.{at}.{browser}")
        target = f"http://{sites.there}/there?_hr={changed}&a=1"
        if reason == "opened directly":
            await page.goto(target)
        else:
            if reason == "foreign page":
                await page.goto(f"http://{sites.foreign}/")
            await page.evaluate(f"location.href = {target!r}")
            await page.wait_for_url("**/there**")
        await page.wait_for_function(READY)
        await page.evaluate("headrace.track('Back')")
        await eventually(lambda: "Back" in world.names)
        assert world.accepted[-1]["anonymousId"] == (given if reason == "good" else there)
        if reason != "no such id":
            assert page.url == f"http://{sites.there}/there?a=1"

    async def test_no_cookie_of_the_gateways_is_needed(self, world: World, page: Page) -> None:
        world.default.headers["Set-Cookie"] = "gateway=1; SameSite=None"
        await page.goto(world.add("/"))
        await world.until("Visit Started", "page")
        await page.reload()
        events = await world.until("Visit Started", "page", "page")
        assert len({event["anonymousId"] for event in events}) == 1
        assert not any("Cookie" in hit.headers for hit in world.hits)
        assert [cookie["name"] for cookie in await page.context.cookies()] == ["hr_aid"]


class TestExample:
    pytestmark = chromium_test

    async def test_it_does_what_it_says(self, world: World, page: Page) -> None:
        example = (Path(__file__).parents[2] / "examples/page.html").read_text()
        assert 'src="http://127.0.0.1:8080/' in example
        example = example.replace("http://127.0.0.1:8080", world.gateway).replace("acme.online-store", KEY)
        await page.goto(world.add("/", "", before=example))
        await page.wait_for_function(READY)
        await page.fill("[type=email]", "a@b.example")
        await page.fill("[type=password]", "hidden")
        for button in ("Add to favourites", "Subscribe", "Add to cart", "Sign in", "Next page"):
            await page.click(f"button:has-text('{button}')")
        assert not world.hits
        await page.click("text=Yes")
        events = await world.until(
            "Visit Started",
            "page",
            "Category Viewed",
            "Product Added to Wishlist",
            "Newsletter Requested",
            "Product Added",
            "identify",
            "Signed In",
            "page",
        )
        assert events[4]["properties"] == {"place": "footer", "email": "a@b.example"}
        assert "hidden" not in str([hit.raw for hit in world.hits])


class TestPrivacyControl:
    pytestmark = chromium_test

    @pytest.mark.parametrize("build", ["tracker.min.js", "tracker.page.min.js"])
    async def test_the_gateway_is_told(self, world: World, page: Page, build: str) -> None:
        await page.add_init_script(GPC)
        await page.set_extra_http_headers({"Sec-GPC": "1"})
        await page.goto(world.add("/", world.tag(build=build)))
        events = await world.until("Visit Started", "page")
        assert [event["context"]["gpc"] for event in events] == [True, True]
        assert [hit.headers.get("Sec-GPC") for hit in world.hits] == ["1"]
