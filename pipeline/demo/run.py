"""The demo from its first page to its last figure, on a Headrace that runs already."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
from rich.console import Console
from rich.live import Live

from pipeline.demo.browser import browse, browser_missing, imitate
from pipeline.demo.checks import Check, Seen, check
from pipeline.demo.ledger import Ledger
from pipeline.demo.partner import SEGMENTS, DemoPartner
from pipeline.demo.receiver import Receiver
from pipeline.demo.screen import check_table, live_screen
from pipeline.demo.storefront import Storefront
from pipeline.demo.traffic import deliver_github, knock, produce, segment_missing, tell_segment, trickle
from pipeline.demo.watch import Watch
from pipeline.stream.kafka import Kafka

__all__ = ["Doors", "Mode", "run"]

#: live: for people. check: figures are checked, then it ends. hold: checked, then kept up.
Mode = Literal["live", "check", "hold"]
#: A change of the control log acts everywhere within this many seconds.
_CONTROL_S = 2.0
_SETTLE_S = 60.0
#: The longest that figures may take to be right, the 20 s window included.
_CHECK_S = 90.0
_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the running Headrace is: its Kafka, the addresses of gateway and API, and the API's token if it has one."""

    kafka: Kafka
    gateway: str
    api: str
    token: str | None = field(default=None, repr=False)


class Demo:
    """The parts of one run."""

    def __init__(self, doors: Doors, console: Console, partner: DemoPartner, shop: Storefront, receiver: Receiver):
        self.doors = doors
        self.console = console
        self.partner = partner
        self.shop = shop
        self.receiver = receiver
        self.ledger = Ledger(partner.id)
        self.watch = Watch(doors.kafka, partner)
        self.sent_at = 0
        self.doing = ""

    def say(self, text: str) -> None:
        """Tell what happens; on the live screen it is the last line."""
        self.doing = text
        if not self.console.is_terminal or os.environ.get("CI"):
            self.console.print(text, markup=False, highlight=False)

    async def send(self) -> None:
        """All the traffic, door after door; the ledger has it afterwards."""
        doors, partner, ledger = self.doors, self.partner, self.ledger
        self.say("The mobile application's backend writes straight to Kafka …")
        await produce(doors.kafka, partner, ledger)
        missing = segment_missing()
        if missing:
            self.say(f"The CRM's import is left out: {missing}")
        else:
            self.say("A CRM imports by the Segment client for Python …")
            await tell_segment(doors.gateway, partner, ledger)
        self.say("GitHub delivers signed webhooks …")
        await deliver_github(doors.gateway, partner, ledger)
        self.say("Strangers knock, and are refused …")
        await knock(doors.gateway, partner, ledger)
        await self._visit()
        self.sent_at = int(time.time() * 1000)
        self.say(f"{len(ledger.sent)} events were sent and acknowledged.")

    async def _visit(self) -> None:
        missing = browser_missing()
        if missing:
            self.say(f"{missing}: the visits to the shop are sent over HTTP, as the tracker would send them …")
            key = self.partner.sources["online-store"]["key"]
            visits = await imitate(self.shop.url, self.doors.gateway, key, self._settled)
        else:
            self.say("Six visitors walk through the shop in Chromium …")
            visits = await browse(self.shop.url, self.doors.gateway, self._settled, self.ledger.problems)
        for events in visits:
            self.ledger.add(*events)

    async def _settled(self, anonymous: str, events: int, user: str | None) -> None:
        """Until the visitor's events are on the timeline, or the visitor has become ``user``: then what the
        visits bring about does not hang on who is faster."""
        deadline = time.monotonic() + _SETTLE_S
        while not await self._is_settled(anonymous, events, user):
            if time.monotonic() > deadline:
                what = f"become {user}" if user else f"{events} events on the timeline"
                raise TimeoutError(f"visitor {anonymous} has not {what} after {_SETTLE_S:g} s")
            await asyncio.sleep(0.1)

    async def _is_settled(self, anonymous: str, events: int, user: str | None) -> bool:
        path = f"{self.partner.path}/customers/{anonymous}"
        answer = await self.partner.api.get(path if user else f"{path}/timeline", params={"limit": 1000})
        if answer.status_code == 404:
            return False
        found: dict[str, Any] = answer.raise_for_status().json()
        if user is None:
            return len(found["items"]) >= events
        wanted = {f"{self.partner.id}|u|{user}", f"{self.partner.id}|a|{anonymous}"}
        return wanted <= set(found["identifiers"])

    async def check(self) -> list[Check]:
        """The checks once all are right, or after `_CHECK_S`, as they are then."""
        deadline = time.monotonic() + _CHECK_S
        while True:
            await self.watch.refresh()
            checks = check(self.ledger, self._seen())
            if not any(one.wrong for one in checks) or time.monotonic() > deadline:
                return checks
            await asyncio.sleep(_POLL_S)

    async def stay(self) -> None:
        """Keep the counts of the shop's corner fresh, until cancelled."""
        while True:
            with contextlib.suppress(httpx.HTTPError):
                await self.watch.refresh()
            await asyncio.sleep(1)

    def _seen(self) -> Seen:
        watch = self.watch
        return Seen(
            counts=watch.counts,
            history=watch.history,
            transitions=list(watch.transitions.values()),
            rejected=watch.rejected,
            received=self.receiver.received,
            sent_at=self.sent_at,
            repeats=watch.repeats,
            dead=watch.dead,
        )

    def addresses(self, checks: list[Check]) -> dict[str, Any]:
        """Everything somebody needs to send events of their own and to compare."""
        partner = self.partner
        github = partner.sources["github"]
        return {
            "pid": os.getpid(),
            "kafka": self.doors.kafka.bootstrap_servers,
            "gateway": self.doors.gateway,
            "api": self.doors.api,
            "shop": self.shop.url,
            "receiver": self.receiver.url,
            "received": self.receiver.url.removesuffix("/hook") + "/received",
            "receiver_secret": self.receiver.secret,
            "partner": partner.id,
            "sources": {
                source["id"]: {field: source[field] for field in ("name", "code", "key", "topic", "channel", "bridge")}
                for source in partner.sources.values()
            },
            "segments": {segment: name for segment, (name, _) in SEGMENTS.items()},
            "webhook": {
                "url": f"{self.doors.gateway}/v1/webhooks/{partner.id}/{github['code']}",
                "secret": partner.webhook_secret,
            },
            "wrong": [f"{one.what}: {one.wrong}" for one in checks if one.wrong],
        }


async def run(doors: Doors, mode: Mode, console: Console) -> int:
    """Run until cancelled (``check``: until checked); the exit code: 1 when a figure was wrong.

    ``console``: for people; ``hold`` prints its one line of JSON on standard output.
    """
    async with _set_up(doors, console) as demo:
        if mode == "live":
            await _show(demo)
            return 0
        await demo.send()
        demo.say("Checking; the last customers leave the 20 s window …")
        checks = await demo.check()
        console.print(check_table(checks))
        wrong = [one for one in checks if one.wrong]
        for one in wrong:
            console.print(f"WRONG {one.what}: {one.wrong}", style="red", markup=False)
        if not wrong:
            console.print(f"All {len(checks)} figures are right: {len(demo.ledger.sent)} events.", style="green")
        if mode == "hold":
            print(json.dumps(demo.addresses(checks)), flush=True)
            # Being told to stop is how holding ends; the figures still make the exit code.
            with contextlib.suppress(asyncio.CancelledError):
                await demo.stay()
        return 1 if wrong else 0


@asynccontextmanager
async def _set_up(doors: Doors, console: Console) -> AsyncIterator[Demo]:
    """Shop, receiver, partner and watch, in that order; the partner acts everywhere when it yields."""
    rows: list[Any] = []
    shop, receiver = Storefront(lambda: rows[0].rows() if rows else []), Receiver()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(shop.stop)
        await shop.start()
        stack.push_async_callback(receiver.stop)
        await receiver.start()
        partner = await DemoPartner.create(doors.api, shop.domain, receiver.url, receiver.secret, doors.token)
        stack.push_async_callback(partner.api.aclose)
        shop.gateway, shop.key = doors.gateway, partner.sources["online-store"]["key"]
        demo = Demo(doors, console, partner, shop, receiver)
        rows.append(demo.watch)
        stack.push_async_callback(demo.watch.stop)
        started = time.monotonic()
        await demo.watch.start()
        await asyncio.sleep(max(0.0, _CONTROL_S - (time.monotonic() - started)))
        yield demo


async def _show(demo: Demo) -> None:
    """Traffic and the live screen, until cancelled."""
    console = demo.console
    console.print(f"The shop: [bold green]{demo.shop.url}[/]  (open it and click)")

    async def traffic() -> None:
        await demo.send()
        demo.say(f"{demo.doing} Somebody goes on using the app now and then.")
        await trickle(demo.doors.kafka, demo.partner)

    sending = asyncio.create_task(traffic(), name="demo traffic")
    try:
        with Live(console=console, auto_refresh=False) as live:
            while not sending.done():
                with contextlib.suppress(httpx.HTTPError):
                    await demo.watch.refresh()
                screen = live_screen(demo.shop.url, demo.doors.api, demo.doing, demo.watch, demo.receiver)
                live.update(screen, refresh=True)
                await asyncio.sleep(_POLL_S)
        sending.result()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
