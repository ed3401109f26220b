"""AsyncAPI 3 of all that crosses Kafka, from topics.yaml and the models: a channel a topic, an operation a channel.

The document speaks as Headrace: it receives from the raw topics, where producers write, and sends to all others.
Messages refer to the JSON Schemas beside it (`schemas/json`).
"""

from __future__ import annotations

import re
from typing import Any

from pipeline.models.contracts import contracts
from pipeline.models.raw import HEADERS
from pipeline.models.window import duration_ms
from pipeline.topics.spec import TopicsFile, TopicSpec, load

__all__ = ["document"]

_FORMAT = "application/schema+json;version=draft-2020-12"
_BINDING = "0.5.0"
_RAW = "raw.{partner}.{source}"
_PARAMETERS = {
    "partner": "id of the partner",
    "source": "immutable id of the event source",
    "integration": "id of the integration",
    "tier": "the delay before the attempt, as HEADRACE_RETRY_SCHEDULE has it",
    "role": "intake, fanout or sink",
}
_DESCRIPTION = """
Every topic of Headrace. Producers write to `raw.{partner}.{source}`, a public contract; all other topics are written
by Headrace and may be read (read-committed) by whom the cluster lets.

All data topics have the same number of partitions, the setting `HEADRACE_LANES`; times are the broker's append times.
"""


def document(file: TopicsFile | None = None) -> dict[str, Any]:
    """The document as JSON; the same for the same topics and models."""
    file = file or load()
    models = frozenset(name.partition(".")[0] for name in contracts())
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for address, spec in file.topics.items():
        name = _name(address)
        carried = _messages(address, spec, models)
        messages |= carried
        channels[name] = _channel(file, address, spec, list(carried))
        receives = address == _RAW
        operations[f"{'receive' if receives else 'send'}.{name}"] = {
            "action": "receive" if receives else "send",
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": f"{'Read by intake, written by' if receives else 'Written by'} {spec.owner}.",
            "messages": [{"$ref": f"#/channels/{name}/messages/{message}"} for message in carried],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Headrace",
            "version": "1",
            "description": _DESCRIPTION.strip(),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "{bootstrap}",
                "protocol": "kafka",
                "description": "the cluster of KAFKA_BOOTSTRAP_SERVERS; `kafka-secure` where it has TLS",
                "variables": {"bootstrap": {"default": "127.0.0.1:9092", "description": "`host:port`"}},
                "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("scram", "certificate")],
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "securitySchemes": {
                "scram": {"type": "scramSha512", "description": "a user that was granted: `headrace sources grant`"},
                "certificate": {"type": "X509", "description": "a client certificate whose name was granted"},
            },
        },
    }


def _name(address: str) -> str:
    """A channel's name, which is part of pointers: ``raw.{partner}.{source}`` -> ``raw``."""
    return re.sub(r"\.?\{\w+\}", "", address).strip(".")


def _channel(file: TopicsFile, address: str, spec: TopicSpec, messages: list[str]) -> dict[str, Any]:
    config = file.defaults.config | spec.config
    topic: dict[str, Any] = {"cleanup.policy": [spec.cleanup], "max.message.bytes": int(config["max.message.bytes"])}
    if spec.retention is not None:
        topic["retention.ms"] = -1 if spec.retention == "forever" else duration_ms(spec.retention)
    kafka: dict[str, Any] = {"topicConfiguration": topic, "bindingVersion": _BINDING}
    if spec.partitions != "lanes":
        kafka["partitions"] = spec.partitions
    channel: dict[str, Any] = {
        "address": address,
        "description": f"{spec.why} Key: {spec.key}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"kafka": kafka},
    }
    names = re.findall(r"\{(\w+)\}", address)
    if names:
        channel["parameters"] = {name: {"description": _PARAMETERS[name]} for name in names}
    return channel


def _messages(address: str, spec: TopicSpec, models: frozenset[str]) -> dict[str, Any]:
    """One a model, named ``<channel>.<model>``: models stand on several topics, under other keys."""
    found: dict[str, Any] = {}
    for value in spec.value.split(" | "):
        if value == "none":
            continue
        known = value in models
        message: dict[str, Any] = {
            "name": value if known else "Bytes",
            "summary": f"{value} on {address}",
            "bindings": {"kafka": {"key": _key(spec, models), "bindingVersion": _BINDING}},
        }
        if known:
            schema = {"$ref": f"./json/{value}.schema.json"}
            message |= {"contentType": "application/json", "payload": {"schemaFormat": _FORMAT, "schema": schema}}
        else:
            message["contentType"] = "application/octet-stream"
        if address == _RAW:
            message["headers"] = {
                "type": "object",
                "properties": {name: {"type": "string", "description": text} for name, text in HEADERS.items()},
            }
        found[f"{_name(address)}.{message['name']}"] = message
    return found


def _key(spec: TopicSpec, models: frozenset[str]) -> dict[str, Any]:
    if spec.key in models:
        return {"allOf": [{"$ref": f"./json/{spec.key}.schema.json"}]}
    return {"type": "string", "description": spec.key}
