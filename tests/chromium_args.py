"""How the tests start Chromium: headless, as root, and silent towards the network."""

from __future__ import annotations

__all__ = ["CHROMIUM_ARGS"]

CHROMIUM_ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
