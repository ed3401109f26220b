"""Bridges by the name that a source has for its own (`models.control.Bridge`)."""

from __future__ import annotations

from pipeline.bridges.base import Bridge, Door, Feed
from pipeline.bridges.call_center import CallCenterBridge
from pipeline.bridges.crm import CrmBridge
from pipeline.bridges.files import FilesBridge
from pipeline.bridges.github import GitHubBridge
from pipeline.bridges.imap import ImapBridge
from pipeline.bridges.links import LinksBridge
from pipeline.bridges.queue_amqp import QueueAmqp
from pipeline.bridges.queue_kafka import QueueKafka
from pipeline.bridges.queue_mqtt import QueueMqtt
from pipeline.bridges.segment import SegmentBridge
from pipeline.bridges.shopify import ShopifyBridge
from pipeline.bridges.slack import SlackBridge
from pipeline.bridges.standard import StandardBridge
from pipeline.bridges.stripe import StripeBridge
from pipeline.bridges.twilio import TwilioBridge
from pipeline.bridges.typeform import TypeformBridge
from pipeline.bridges.webhook import GenericBridge

__all__ = ["BRIDGES", "FEEDS", "TOPIC", "bridge"]

#: No code of ours: the source's producers write to its topic themselves.
TOPIC = "kafka"

_ALL: tuple[Bridge, ...] = (
    SegmentBridge("js", "pages with the tracker, by the source's public key", "Web"),
    SegmentBridge("rest", "apps and servers: Segment's HTTP API", "Mobile"),
    GitHubBridge(),
    CrmBridge(),
    CallCenterBridge(),
    StripeBridge(),
    SlackBridge(),
    ShopifyBridge(),
    TypeformBridge(),
    TwilioBridge(),
    StandardBridge(),
    GenericBridge(),
    LinksBridge(),
)
#: Those that fetch, in the bridge role (`pipeline.feeds`).
FEEDS: dict[str, Feed] = {
    each.name: each for each in (QueueKafka(), QueueMqtt(), QueueAmqp(), ImapBridge(), FilesBridge())
}
BRIDGES: dict[str, Bridge] = {each.name: each for each in (*_ALL, *FEEDS.values())}


def bridge(name: str, door: Door) -> Bridge | None:
    """The bridge of that name behind that door, or None."""
    found = BRIDGES.get(name)
    return found if found is not None and found.door == door else None
