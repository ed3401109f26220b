"""The difference between the topics there should be and the topics there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code
from pydantic import Field

from pipeline.models.base import Model
from pipeline.stream.kafka import Kafka
from pipeline.topics.spec import Topic

__all__ = ["Change", "Plan", "plan"]

#: Settings that say how much is kept or taken: more is safe, less loses data or refuses what was taken.
_GROWING = {"retention.ms", "max.message.bytes"}
_REFUSED = {
    "cleanup.policy": "changing it deletes data, or stops deleting it; make a new topic and replay",
}
#: DescribeConfigs: where a value comes from; 1 is a setting of the topic itself.
_OF_TOPIC = 1


class Change(Model):
    """One thing to do or to refuse."""

    topic: str
    action: Literal["create", "set", "refuse", "extra"]
    what: str = ""
    before: str | None = None
    after: str | None = None
    reason: str = ""


class Plan(Model):
    """What `apply` would do. Empty ``changes``: the cluster is as it should be."""

    changes: list[Change]
    wanted: list[Topic] = Field(exclude=True)
    #: Settings of topics that have one to be set, all of them, since the broker replaces them whole.
    present: dict[str, dict[str, str]] = Field(default_factory=dict, exclude=True)

    @property
    def refused(self) -> list[Change]:
        """What is different and can't be changed safely."""
        return [change for change in self.changes if change.action == "refuse"]

    @property
    def todo(self) -> list[Change]:
        """What `apply` will do."""
        return [change for change in self.changes if change.action in ("create", "set")]

    def render(self) -> str:
        """For people: a line a change, its reason behind it."""
        signs = {"create": "+", "set": "~", "refuse": "!", "extra": "?"}
        lines = []
        for change in self.changes:
            line = f"{signs[change.action]} {change.topic}"
            if change.what:
                line += f"  {change.what}: {change.before} -> {change.after}"
            lines.append(line + (f"  ({change.reason})" if change.reason else ""))
        return "\n".join(lines) if lines else "The cluster is as topics.yaml says."


async def plan(kafka: Kafka, wanted: Iterable[Topic], *, prefixes: tuple[str, ...] = ()) -> Plan:
    """Compare ``wanted`` with the cluster; topics whose name begins with one of ``prefixes`` and that nobody wants
    are listed as extra, and never deleted. Raises KafkaError when the cluster refuses to tell.
    """
    wanted = list(wanted)
    admin = kafka.admin()
    await admin.start()
    try:
        there = set(await admin.list_topics())
        names = [topic.name for topic in wanted if topic.name in there]
        described = {t["topic"]: t for t in await admin.describe_topics(names)} if names else {}
        settings = await _settings(admin, names)
    finally:
        await admin.close()
    changes: list[Change] = []
    for topic in wanted:
        if topic.name not in there:
            changes.append(Change(topic=topic.name, action="create", reason=f"{topic.partitions} partitions"))
            continue
        changes += _layout(topic, described[topic.name])
        changes += _config(topic, {name: value for name, (value, _) in settings[topic.name].items()})
    known = {topic.name for topic in wanted}
    for name in sorted(there - known):
        if prefixes and name.startswith(prefixes):
            changes.append(Change(topic=name, action="extra", reason="nobody's; delete it by hand if it is not needed"))
    own = {name: {k: v for k, (v, own) in found.items() if own} for name, found in settings.items()}
    return Plan(changes=changes, wanted=wanted, present=own)


async def _settings(admin: Any, names: list[str]) -> dict[str, dict[str, tuple[str, bool]]]:
    """Topic -> setting -> (value, whether it is the topic's own)."""
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found: dict[str, dict[str, tuple[str, bool]]] = {}
    for response in await admin.describe_configs(resources):
        for code, message, _, name, entries in response.resources:
            if code:
                raise for_code(code)(f"{name}: {message}")
            found[name] = {entry[0]: (entry[1], entry[3] == _OF_TOPIC) for entry in entries}
    return found


def _layout(topic: Topic, described: dict[str, Any]) -> list[Change]:
    changes = []
    partitions = len(described["partitions"])
    if partitions != topic.partitions:
        reason = "keys would land elsewhere; a new number of lanes is a new generation of topics, by replay"
        changes.append(_refuse(topic, "partitions", str(partitions), str(topic.partitions), reason))
    replicas = min((len(p["replicas"]) for p in described["partitions"]), default=0)
    if replicas < topic.replication:
        reason = "reassign its replicas with kafka-reassign-partitions"
        changes.append(_refuse(topic, "replication", str(replicas), str(topic.replication), reason))
    return changes


def _config(topic: Topic, present: dict[str, str]) -> list[Change]:
    changes = []
    for name, value in topic.config.items():
        before = present.get(name)
        if before == value:
            continue
        if name in _REFUSED:
            changes.append(_refuse(topic, name, before, value, _REFUSED[name]))
        elif name in _GROWING and before is not None and _amount(value) < _amount(before):
            reason = "less than now: data would be lost or refused; do it by hand if you mean it"
            changes.append(_refuse(topic, name, before, value, reason))
        else:
            changes.append(Change(topic=topic.name, action="set", what=name, before=before, after=value))
    return changes


def _amount(value: str) -> float:
    return float("inf") if value == "-1" else float(value)


def _refuse(topic: Topic, what: str, before: str | None, after: str, reason: str) -> Change:
    return Change(topic=topic.name, action="refuse", what=what, before=before, after=after, reason=reason)
