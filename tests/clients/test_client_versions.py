"""The document names the versions that the tests run."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_document_names_the_versions_that_are_proven() -> None:
    text = (ROOT / "docs/clients.md").read_text()
    told = dict(re.findall(r"^\| \[`([^`]+)`\]\([^)]*\) \| ([\d.]+) \|", text, re.MULTILINE))
    wanted = json.loads((ROOT / "tests/clients/package.json").read_text())["dependencies"]
    wanted |= {name: version(name) for name in ("segment-analytics-python", "rudder-sdk-python")}
    assert told == wanted
