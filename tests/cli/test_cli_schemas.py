"""`headrace schemas export`: writes the contracts, or names the stale ones."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from pipeline.cli.schemas import app


def test_check_names_what_is_stale_and_writes_nothing(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert CliRunner().invoke(app, ["export", "--folder", folder]).exit_code == 0
    assert CliRunner().invoke(app, ["export", "--folder", folder, "--check"]).exit_code == 0
    changed = tmp_path / "RawEvent.schema.json"
    changed.write_text("{}")
    found = CliRunner().invoke(app, ["export", "--folder", folder, "--check"])
    assert found.exit_code == 1
    assert "RawEvent.schema.json" in found.output
    assert "Event.schema.json" not in found.output.replace("RawEvent.schema.json", "")
    assert changed.read_text() == "{}"
