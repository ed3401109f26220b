"""The documents: what they name is there, what they show works, and what the code says of them is true."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml
from command_line import parse
from pydantic import SecretStr
from typer import BadParameter

from pipeline.cli.main import COMMANDS
from pipeline.models.raw import HEADERS
from pipeline.models.segment import Definition
from pipeline.settings import KafkaSettings, Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "pipeline/gateway/tracker/README.md"])
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def files() -> list[Path]:
    """Every file of the repository, committed or about to be."""
    run = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if run.returncode:
        pytest.skip("not a git repository: the files of the project cannot be told from others")
    return [path for line in run.stdout.splitlines() if (path := ROOT / line).is_file()]


@cache
def headings(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r"^#+ (.+?) *$", FENCE.sub("", path.read_text()), re.MULTILINE))


def anchor(heading: str) -> str:
    """As the usual renderers make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def blocks(path: Path, language: str) -> list[str]:
    return [text for _, found, text in FENCE.findall(path.read_text()) if found == language]


def commands() -> list[tuple[str, str]]:
    """Every `headrace` line of a shell example or in a line of prose, by document."""
    found = []
    for path in DOCUMENTS:
        lines = [line for block in blocks(path, "sh") for line in block.replace("\\\n", " ").splitlines()]
        lines += [line for line in re.findall(r"`(headrace [a-z][^`]*)`", path.read_text()) if "|" not in line]
        lines += re.findall(r"^    (?:\.venv/bin/)?(headrace .*)$", path.read_text(), re.MULTILINE)
        found += [(name(path), line) for line in dict.fromkeys(lines) if line.startswith("headrace ")]
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    text = FENCE.sub("", path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        place, _, section = target.partition("#")
        file = (path.parent / place).resolve() if place else path
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if section:
            assert section in {anchor(heading) for heading in headings(file)}, target


def test_what_the_code_says_of_the_documents_is_there() -> None:
    seen = 0
    for path in files():
        if path.suffix not in (".py", ".sh", ".toml", ".yaml", ".ts", ".mjs", "") or path.parts[-2:-1] == ("docs",):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for place in re.findall(r"\bdocs/[a-z0-9/_-]+(?:\.md)?", text):
            if (ROOT / "docs").exists() and not re.search(rf"[\w.]/{re.escape(place)}", text):
                assert (ROOT / place).exists(), f"{name(path)}: {place}"
                seen += 1
        for place, section in re.findall(r"(docs/[a-z0-9/_-]+\.md), \"([^\"]+)\"", text):
            assert section in headings(ROOT / place), f'{name(path)}: {place}, "{section}"'
            seen += 1
    assert seen > 5


def test_every_test_named_in_a_document_exists() -> None:
    there = set()
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text())
        there |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    named = {(name(path), test) for path in DOCUMENTS for test in re.findall(r"`(test_\w+)`", path.read_text())}
    assert len(named) > 50
    assert [pair for pair in sorted(named) if pair[1] not in there] == []


def test_every_promise_has_a_mechanism_and_a_test() -> None:
    text = (ROOT / "docs/guarantees.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    promises = [row for row in rows if row[0].strip() not in ("promise", "---") and set(row[0]) != {"-"}]
    assert len(promises) > 20
    for row in promises:
        assert len(row) == 3, row
        assert row[1].strip(), row
        assert "`test_" in row[2], row


def test_the_table_of_settings_is_the_settings() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    told = {
        variable: default.strip("`")
        for variable, default in re.findall(r"^\| `((?:KAFKA|HEADRACE)_\w+)` \| ([^|]+?) \|", text, re.MULTILINE)
    }
    actual = {}
    for model in (KafkaSettings, Settings):
        for field, info in model.model_fields.items():
            default = info.default
            assert not isinstance(default, SecretStr)
            empty = default is None or default == ""
            actual[f"{model.model_config['env_prefix']}{field}".upper()] = "none" if empty else str(default)
    assert told == actual


def test_variables_named_anywhere_are_read_somewhere() -> None:
    code = "".join(path.read_text() for path in (ROOT / "pipeline").rglob("*.py"))
    known = {
        f"{model.model_config['env_prefix']}{field}".upper()
        for model in (KafkaSettings, Settings)
        for field in model.model_fields
    }
    for path in DOCUMENTS:
        for variable in re.findall(r"\b(?:KAFKA|HEADRACE)_[A-Z_]+\b", path.read_text()):
            assert variable in known or f'"{variable}"' in code, f"{name(path)}: {variable}"


def test_commands_shown_are_those_of_the_program() -> None:
    shown = commands()
    assert len(shown) > 20
    for path, line in shown:
        words = shlex.split(line, comments=True)[1:]
        if words[0] in ("demo", "bench"):
            assert words[0] in COMMANDS, f"{path}: {line}"
            continue
        # Words in capitals stand for what the reader fills in, unless they are a name in quotes.
        kept = set(re.findall(r'"([A-Z|]+)"', line))
        given = [word for word in words if word in kept or not re.fullmatch(r"[A-Z|]+", word)]
        try:
            parse(given if "PARTNER" not in words else words)
        except BadParameter as error:
            # Prose may name a command alone, without what it takes.
            alone = all(re.fullmatch(r"[a-z-]+", word) for word in words)
            if type(error).__name__ != "MissingParameter" or not alone:
                pytest.fail(f"{path}: {line}: {error}")


def test_roles_of_the_readme_are_all_there() -> None:
    told = set(re.findall(r"^\| `headrace (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert told == {name for name, (module, _) in COMMANDS.items() if module.startswith("pipeline.cli.roles:")}


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "docs/segments.md"], ids=name)
def test_conditions_shown_are_conditions(path: Path) -> None:
    shown = [json.loads(block) for block in blocks(path, "json")]
    assert shown
    for condition in shown:
        Definition.model_validate({"name": "shown", "condition": condition})


def test_topics_told_are_those_of_topics_yaml() -> None:
    text = (ROOT / "docs/architecture.md").read_text().partition("## Topics")[2].partition("##")[0]
    told: set[str] = set()
    for row in re.findall(r"^\| (`.+?`) \|", text, re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", row)
        told |= {first, *(f"{first}{other}" if other.startswith(".") else other for other in others)}
    # A row with a suffix continues the template of its first name.
    told = {re.sub(r"<([a-z]+)>", r"{\1}", topic) for topic in told}
    assert told == set(yaml.safe_load((ROOT / "topics.yaml").read_text())["topics"])


def test_headers_told_are_those_of_the_contract() -> None:
    table = (ROOT / "docs/producers.md").read_text().partition("| header |")[2].partition("\n\n")[0]
    names = " ".join(row.split("|")[1] for row in table.splitlines())
    assert sorted(re.findall(r"`((?:ce|headrace)_\w+)`", names)) == sorted(HEADERS)


def test_the_readme_opens_with_the_two_commands() -> None:
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line][1:3]
    assert [line.split("#")[0].split() for line in lines] == [["make", "demo"], ["make", "test"]]


def test_what_is_to_be_made_can_be_made() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    targets |= {f"bench-{path.stem}" for path in (ROOT / "pipeline/bench").glob("*.py")}
    shown = {
        (name(path), target)
        for path in DOCUMENTS
        for target in re.findall(r"(?:`|^    )make ([a-z-]+)(?=[` \n]|$)", path.read_text(), re.MULTILINE)
    }
    assert len(shown) > 8
    assert [pair for pair in sorted(shown) if pair[1] not in targets] == []
