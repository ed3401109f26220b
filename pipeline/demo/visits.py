"""The visits that the demo makes to its shop: what a visitor does, and what the tracker must send for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["VISITS", "Call", "Step", "Visit"]

#: An event's name and the properties that matter.
Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Step:
    """``open``: ``target`` is a path. ``click``: a selector. ``submit``: a form, ``fields`` filled in before."""

    do: Literal["open", "click", "submit"]
    target: str
    calls: tuple[Call, ...]
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def user(self) -> str | None:
        """Who signs in with this step."""
        return dict(self.fields).get("user")


@dataclass(frozen=True, slots=True)
class Visit:
    """One visitor's steps, in a browser of its own."""

    name: str
    steps: tuple[Step, ...]

    @property
    def calls(self) -> list[Call]:
        """All that must be sent, in order."""
        return [("Visit Started", {}), *(call for step in self.steps for call in step.calls)]


def _open(path: str, *calls: Call) -> Step:
    return Step("open", path, (("Page Viewed", {}), *calls))


def _category(name: str) -> Step:
    return _open(f"/category/{name.lower()}", ("Category Viewed", {"category": name}))


def _product(sku: str) -> Step:
    return _open(f"/product/{sku}", ("Product Viewed", {"sku": sku}))


def _click(selector: str, event: str) -> Step:
    return Step("click", selector, ((event, {}),))


def _account(form: str, event: str, user: str) -> tuple[Step, Step]:
    fields = [("user", user)] + [("email", f"{user}@shop.example")] * (form == "register")
    return _open(f"/{form}"), Step("submit", f"#{form}", (("Identified", {}), (event, {})), tuple(fields))


_ADD = _click("#add", "Product Added")
_ORDER = (_open("/checkout"), _click("#order", "Order Completed"))
_FAVOURITE = _click("#favourite", "Product Added to Wishlist")

VISITS: tuple[Visit, ...] = (
    # Looks at jackets, signs in, looks again: one customer, not two.
    Visit(
        "ann",
        (
            _open("/"),
            _category("Jacket"),
            _product("JK-1"),
            _ADD,
            *_account("login", "Signed In", "ann"),
            _category("Jacket"),
        ),
    ),
    # Buys a hat, never sees a jacket.
    Visit("boris", (_category("Hat"), _product("HT-1"), _ADD, *_account("register", "Signed Up", "boris"), *_ORDER)),
    # Undecided until the order.
    Visit(
        "carla",
        (
            _category("Jacket"),
            _product("JK-2"),
            _FAVOURITE,
            *_account("register", "Signed Up", "carla"),
            _category("Jacket"),
            _product("JK-2"),
            _ADD,
            *_ORDER,
        ),
    ),
    # Three who stay anonymous.
    Visit(
        "a visitor",
        (
            _open("/section/sale", ("Section Viewed", {"section": "Sale"})),
            _category("Jacket"),
            _product("JK-3"),
            _FAVOURITE,
            _click("#favourite", "Product Removed from Wishlist"),
        ),
    ),
    Visit(
        "a visitor",
        (
            _open("/"),
            _category("Shoes"),
            _product("SH-1"),
            _ADD,
            _open("/cart"),
            _click("[data-remove]", "Product Removed"),
        ),
    ),
    Visit("a visitor", (_category("Jacket"),)),
)
