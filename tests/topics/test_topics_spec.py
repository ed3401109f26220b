"""topics.yaml itself, and what is said of one that is wrong."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import pipeline.models
from pipeline.models.control import Integration, Source
from pipeline.settings import Settings
from pipeline.topics.spec import SpecError, expand, load
from pipeline.topics.wanted import for_entity


def test_templates_become_topics_of_each_source_integration_and_role() -> None:
    wanted = expand(load(), 4, 1, sources=[("acme", "app")], integrations=[("acme", "crm")], tiers=["5s", "5m", "5s"])
    names = [topic.name for topic in wanted]
    assert len(names) == len(set(names))
    assert {"control", "events", "raw.acme.app", "lanes.intake", "dead.sink"} <= set(names)
    retries = [name for name in names if name.startswith("dispatch.")]
    assert retries == [
        "dispatch.acme.crm",
        "dispatch.acme.crm.retry.5s",
        "dispatch.acme.crm.retry.5m",
        "dispatch.acme.crm.undeliverable",
    ]
    by_name = {topic.name: topic for topic in wanted}
    assert by_name["control"].partitions == 1
    assert by_name["control"].config["retention.ms"] == "-1"
    assert by_name["events"].partitions == 4
    assert by_name["customers"].config["cleanup.policy"] == "compact"
    assert all(topic.config["message.timestamp.type"] == "LogAppendTime" for topic in wanted)


def test_an_entity_has_the_topics_that_it_names_itself() -> None:
    stamps = {"version": 1, "created": 0, "updated": 0}
    source = Source(id="app", partner="acme", name="App", code="app", **stamps)
    tool = Integration(id="crm", partner="acme", name="CRM", kind="webhook", **stamps)
    assert [t.name for t in for_entity(Settings(), source)] == [source.topic]
    assert for_entity(Settings(), tool)[0].name == tool.topic


def test_a_delay_is_one_tier_however_it_is_written() -> None:
    tool = Integration(id="crm", partner="acme", name="CRM", kind="webhook", version=1, created=0, updated=0)
    names = [t.name for t in for_entity(Settings(retry_schedule="5s, 5m , 5s"), tool)]
    assert [n for n in names if ".retry." in n] == ["dispatch.acme.crm.retry.5s", "dispatch.acme.crm.retry.5m"]
    with pytest.raises(ValueError, match=r"HEADRACE_RETRY_SCHEDULE '5s,soon': 'soon' is no duration"):
        for_entity(Settings(retry_schedule="5s,soon"), tool)


def test_a_template_more_is_a_topic_more(tmp_path: Path) -> None:
    body = "{owner: x, key: k, value: v, partitions: 1, cleanup: delete, why: because I say}"
    names = ["audit.{partner}.{source}", "dispatch.{partner}.{integration}.paused", "x.{partner}.{integration}.{tier}"]
    file = tmp_path / "topics.yaml"
    file.write_text("version: 1\ntopics:\n" + "".join(f"  {name}: {body}\n" for name in names))
    wanted = expand(load(file), 1, 1, sources=[("acme", "app")], integrations=[("acme", "crm")], tiers=["5s"])
    assert [t.name for t in wanted] == ["audit.acme.app", "dispatch.acme.crm.paused", "x.acme.crm.5s"]


def test_every_value_named_in_the_file_is_a_model_or_says_what_it_is_in_lower_case() -> None:
    models = {
        name
        for module in pkgutil.iter_modules(pipeline.models.__path__)
        for name, _ in inspect.getmembers(importlib.import_module(f"pipeline.models.{module.name}"), inspect.isclass)
    }
    for name, spec in load().topics.items():
        for value in spec.value.split(" | "):
            assert value in models or value[0].islower(), f"{name}: {value} is no model"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("version: 1\ntopics: {a: {owner: x}}", "topics.a.key"),
        ("version: 2\ntopics: {}", "version"),
        ("version: 1\ntopics: [", "no YAML"),
        (
            "version: 1\ntopics: {a: {owner: x, key: k, value: v, partitions: 0, cleanup: delete, why: because I say}}",
            "topics.a.partitions",
        ),
        (
            "version: 1\ntopics: {a: {owner: x, key: k, value: v, partitions: 1, cleanup: delete, retention: long,"
            " why: because I say}}",
            "'long' is no duration",
        ),
        (
            "version: 1\ntopics: {'raw.{tenant}': {owner: x, key: k, value: v, partitions: 1, cleanup: delete,"
            " why: because I say}}",
            "topics: .*'raw.{tenant}'.* no placeholder",
        ),
        (
            "version: 1\ntopics: {'a b': {owner: x, key: k, value: v, partitions: 1, cleanup: delete,"
            " why: because I say}}",
            "topics: .*'a b'.* letters",
        ),
    ],
)
def test_a_fault_is_told_with_its_place(tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "topics.yaml"
    file.write_text(text)
    with pytest.raises(SpecError, match=fault):
        load(file)
