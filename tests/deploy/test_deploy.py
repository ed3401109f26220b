"""deploy/: held to the linters of its formats, and to the code that it runs. No Docker engine is needed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import parse
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.agents.role import ROLES
from pipeline.broker.properties import server_properties
from pipeline.cli.main import COMMANDS
from pipeline.settings import KafkaSettings, Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
#: Modules that a container of each role imports; `worker` is both agents.
ROLE_MODULES = {
    "api": "pipeline.api.role",
    "bridge": "pipeline.feeds.role",
    "gateway": "pipeline.gateway.role",
    "lake": "pipeline.lake.role",
    "postgres": "pipeline.query.postgres",
    "sink": "pipeline.sinks.role",
    "worker": "pipeline.agents.role",
}
#: The services whose command is `worker`.
WORKERS = {"intake", "fanout"}


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def ours() -> dict[str, dict[str, Any]]:
    """The services that run our image."""
    return {name: service for name, service in compose()["services"].items() if "build" in service}


def settings() -> set[str]:
    """The names of all environment variables that the processes read."""
    return {
        f"{model.model_config['env_prefix']}{name}".upper()
        for model in (KafkaSettings, Settings)
        for name in model.model_fields
    }


def lock(path: Path) -> dict[str, str]:
    """Name -> version of every package in a lock."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ \\;]+)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def lint(tool: str, file: Path) -> subprocess.CompletedProcess[str]:
    """Run the linter of a format: ``compose``, the JSON Schema of the Compose specification, or ``dockerfile``."""
    schema = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    command = {"compose": schema, "dockerfile": [str(BIN / "hadolint"), "--no-color"]}[tool]
    return subprocess.run([*command, str(file)], capture_output=True, text=True)


@pytest.mark.parametrize(("tool", "file"), [("compose", "compose.yaml"), ("dockerfile", "Dockerfile")])
def test_the_linter_of_its_format_finds_nothing(tool: str, file: str) -> None:
    run = lint(tool, DEPLOY / file)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("tool", "text", "fault"),
    [
        ("compose", "services: {worker: {image: headrace, restart: [7]}}", "restart"),
        ("dockerfile", "FROM python:latest\nRUN cd /srv\n", "DL3007"),
    ],
)
def test_the_linters_do_find_faults(tool: str, text: str, fault: str, tmp_path: Path) -> None:
    file = tmp_path / f"{tool}.yaml"
    file.write_text(text)
    run = lint(tool, file)
    assert run.returncode == 1
    assert fault in run.stdout


@pytest.mark.parametrize("service", ours())
def test_every_command_is_one_of_the_program(service: str) -> None:
    parse(ours()[service]["command"])


def test_a_command_that_is_none_would_be_noticed() -> None:
    with pytest.raises(BaseException, match="nonsense"):
        parse(["nonsense"])
    with pytest.raises(BaseException, match="rolls"):
        parse(["worker", "--rolls", "intake"])


def test_every_role_runs() -> None:
    roles = {name for name, (module, _) in COMMANDS.items() if module.startswith("pipeline.cli.roles:")}
    commands = [service["command"] for service in ours().values()]
    assert roles == ROLE_MODULES.keys()
    assert roles <= {command[0] for command in commands}
    agents = {role for command in commands if command[0] == "worker" for role in parse(command)["roles"].split(",")}
    assert agents == set(ROLES)
    assert ["topics", "apply"] in commands


def test_roles_wait_for_the_topics_and_the_topics_for_kafka() -> None:
    for name, service in ours().items():
        if name != "topics":
            assert service["depends_on"]["topics"]["condition"] == "service_completed_successfully"
            assert service["restart"] == "unless-stopped"
    assert ours()["topics"]["depends_on"]["kafka"] == {"condition": "service_healthy", "required": False}


def test_every_variable_is_a_setting() -> None:
    for name, service in ours().items():
        assert service["environment"].keys() <= settings(), name
    example = re.findall(r"^#?([A-Z_]+)=", (DEPLOY / "env.example").read_text(), re.MULTILINE)
    assert "HEADRACE_SECRET_KEY" in example
    outside = set(example) - settings()
    used = set(re.findall(r"\$\{([A-Z_]+)", (DEPLOY / "compose.yaml").read_text()))
    assert outside - used == {"COMPOSE_PROFILES"}
    passed = {variable for service in ours().values() for variable in service["environment"]}
    assert set(example) & settings() <= passed, "the example sets what no service is given"


def test_secrets_go_only_where_they_are_needed_and_have_no_default() -> None:
    holders = {"HEADRACE_API_TOKEN": {"api"}, "HEADRACE_SECRET_KEY": {"api", "bridge", "fanout", "gateway", "sink"}}
    for secret, wanted in holders.items():
        holding = {name: s["environment"][secret] for name, s in ours().items() if secret in s["environment"]}
        assert holding.keys() == wanted
        assert all(value.startswith(f"${{{secret}:?") for value in holding.values())
    assert [name for name, s in ours().items() if "HEADRACE_POSTGRES" in s["environment"]] == ["postgres"]
    assert re.search(r"^HEADRACE_SECRET_KEY=$", (DEPLOY / "env.example").read_text(), re.MULTILINE)


def test_ports_and_volumes_are_those_of_the_settings() -> None:
    services = ours()
    doors = {"gateway": "gateway_port", "api": "api_port"}
    for name, service in services.items():
        published = [port.rpartition(":")[2] for port in service.get("ports", [])]
        assert published == ([str(Settings.model_fields[doors[name]].default)] if name in doors else [])
    data = re.search(r"HEADRACE_DATA_DIR=(\S+)", (DEPLOY / "Dockerfile").read_text())
    assert data is not None
    lake = f"lake:{data[1]}/lake"
    assert services["fanout"]["volumes"] == [f"fanout:{data[1]}", f"{lake}:ro"]
    assert services["api"]["volumes"] == [f"api:{data[1]}", lake]
    assert services["lake"]["volumes"] == [lake]
    assert f"{data[1]}/lake\n" in (DEPLOY / "Dockerfile").read_text()


def test_whoever_has_a_door_is_asked_there_whether_it_is_ready() -> None:
    services = ours()
    doors = {name for name, service in services.items() if not service.get("healthcheck", {}).get("disable")}
    assert doors == {"gateway", "api", *WORKERS}
    exposed = set(re.findall(r"^EXPOSE (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[0].split())
    gateway, api = (str(Settings.model_fields[name].default) for name in ("gateway_port", "api_port"))
    asked = {name: services[name]["healthcheck"]["test"][-1] for name in doors - {"gateway"}}
    asked["gateway"] = (DEPLOY / "Dockerfile").read_text().partition("HEALTHCHECK")[2]
    for name, command in asked.items():
        worker = services[name]["environment"].get("HEADRACE_WORKER_PORT")
        port = {"gateway": gateway, "api": api}.get(name, str(worker))
        assert f"http://127.0.0.1:{port}/readyz" in command
        assert port in exposed
        assert (worker is not None) == (name in WORKERS), name


def test_an_instance_is_one_processs_with_a_store_and_a_host_name_of_its_own() -> None:
    instances = {name: s["environment"].get("HEADRACE_INSTANCE") for name, s in ours().items()}
    assert {name: instance for name, instance in instances.items() if instance} == {"fanout": "fanout"}
    assert ours()["fanout"]["hostname"] == "fanout"
    assert ours()["fanout"]["volumes"]


def test_a_worker_has_time_to_drain_before_it_is_killed() -> None:
    drain = Settings.model_fields["drain_seconds"].default
    for name in WORKERS:
        assert int(ours()[name]["stop_grace_period"].removesuffix("s")) >= drain + 15, name


def test_kafka_is_the_version_that_the_tests_run() -> None:
    jars = (ROOT / "pipeline/broker/jars.lock").read_text()
    version = re.search(r"^org\.apache\.kafka:kafka-clients:(\S+)", jars, re.MULTILINE)
    assert version is not None
    assert compose()["services"]["kafka"]["image"] == f"apache/kafka:{version[1]}"


def test_kafka_is_set_as_the_embedded_one_is() -> None:
    embedded = dict(line.split("=", 1) for line in server_properties(Path("log"), 1, 2).splitlines())
    where = ("listeners", "advertised.", "listener.", "inter.broker.", "controller.", "log.dirs")
    given = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): str(value)
        for name, value in compose()["services"]["kafka"]["environment"].items()
    }
    same = {name: value for name, value in given.items() if not name.startswith(where)}
    assert same.items() <= embedded.items()
    wanted = {"auto.create.topics.enable", "offsets.retention.minutes", "message.max.bytes"}
    assert wanted | {"transaction.partition.verification.enable"} <= same.keys()


def test_the_image_runs_as_nobody_special_and_copies_what_is_there() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users, "runs as root"
    assert users[-1].partition(":")[0] not in ("0", "root")
    copied = [words[1:-1] for line in lines if (words := line.split())[:1] == ["COPY"] and "--from" not in line]
    assert copied
    let_in = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    for path in (path for words in copied for path in words):
        assert (ROOT / path).exists(), path
        assert path in let_in or f"{Path(path).parent}/*{Path(path).suffix}" in let_in, path


@pytest.mark.parametrize("name", ["runtime.lock", "build.lock"])
def test_the_image_gets_the_versions_that_the_tests_run_and_by_hash(name: str) -> None:
    text = (DEPLOY / name).read_text()
    assert "://" not in text
    assert "--index-url" not in text
    everything, image = lock(ROOT / "requirements.lock"), lock(DEPLOY / name)
    assert image
    assert image.items() <= everything.items(), "stale: run make lock"
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(image)
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_locks_fit_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    image = lock(DEPLOY / "runtime.lock")
    for requirement in map(Requirement, project["project"]["dependencies"]):
        assert requirement.specifier.contains(image[canonicalize_name(requirement.name)]), requirement
    inputs = [line for line in (DEPLOY / "build.in").read_text().splitlines() if line and line[0] != "#"]
    assert inputs == project["build-system"]["requires"]
    development = {canonicalize_name(Requirement(line).name) for line in project["dependency-groups"]["dev"]}
    assert development.isdisjoint(image)


@pytest.mark.parametrize("role", ROLE_MODULES)
def test_a_role_imports_only_what_the_image_has(role: str) -> None:
    code = (
        # pyarrow and duckdb take these where they are, and do without.
        "import sys; sys.modules['numpy'] = sys.modules['pandas'] = None\n"
        f"import json, {ROLE_MODULES[role]}, pipeline.cli.roles, pipeline.topics.wanted\n"
        "from importlib.metadata import packages_distributions as known\n"
        "where = known()\n"
        "print(json.dumps([where.get(name.partition('.')[0], []) for name, there in sys.modules.items() if there]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    imported = {canonicalize_name(name) for names in json.loads(run.stdout) for name in names}
    imported -= {"headrace", "setuptools"}  # setuptools hooks itself into every start of an environment that has it
    assert len(imported) > 10
    assert imported <= lock(DEPLOY / "runtime.lock").keys()
