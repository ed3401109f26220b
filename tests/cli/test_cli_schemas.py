"""`headrace schemas export`: writes the contracts, or names the stale ones; and the ones that stand here are not."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from pipeline.cli.schemas import app, stale
from pipeline.models.resources import resource


def test_the_published_contracts_are_what_the_code_says() -> None:
    assert stale(resource("schemas")) == [], "run `headrace schemas export`"


def test_check_names_what_is_stale_and_writes_nothing(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert CliRunner().invoke(app, ["export", "--folder", folder]).exit_code == 0
    assert CliRunner().invoke(app, ["export", "--folder", folder, "--check"]).exit_code == 0
    changed = tmp_path / "json" / "RawEvent.schema.json"
    changed.write_text("{}")
    (tmp_path / "asyncapi.json").unlink()
    (tmp_path / "openapi" / "api.json").write_text("{}")
    found = CliRunner().invoke(app, ["export", "--folder", folder, "--check"])
    assert found.exit_code == 1
    for name in ("json/RawEvent.schema.json", "asyncapi.json", "openapi/api.json"):
        assert name in found.output
    assert "Event.schema.json" not in found.output.replace("RawEvent.schema.json", "")
    assert "gateway.json" not in found.output
    assert changed.read_text() == "{}"
