"""Tools by the kind that an integration names. A new tool is a file and a line here (docs/sinks/how-to-add.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.sinks.base import SetupError, Sink, SinkConfig
from pipeline.sinks.braze import BrazeSink
from pipeline.sinks.clevertap import ClevertapSink
from pipeline.sinks.customerio import CustomerioSink
from pipeline.sinks.ga4 import Ga4Sink
from pipeline.sinks.gupshup import GupshupSink
from pipeline.sinks.hubspot import HubspotSink
from pipeline.sinks.interakt import InteraktSink
from pipeline.sinks.klaviyo import KlaviyoSink
from pipeline.sinks.mailchimp import MailchimpSink
from pipeline.sinks.meta import MetaSink
from pipeline.sinks.moengage import MoengageSink
from pipeline.sinks.omnisend import OmnisendSink
from pipeline.sinks.parquet import ParquetSink
from pipeline.sinks.postgres import PostgresSink
from pipeline.sinks.s3 import S3Sink
from pipeline.sinks.slack import SlackSink
from pipeline.sinks.smtp import SmtpSink
from pipeline.sinks.twilio import TwilioSink
from pipeline.sinks.webengage import WebengageSink
from pipeline.sinks.webhook import WebhookSink

__all__ = ["SINKS", "configure", "sink"]

_ALL: tuple[Sink[Any], ...] = (
    WebhookSink(),
    BrazeSink(),
    ClevertapSink(),
    CustomerioSink(),
    Ga4Sink(),
    GupshupSink(),
    HubspotSink(),
    InteraktSink(),
    KlaviyoSink(),
    MailchimpSink(),
    MetaSink(),
    MoengageSink(),
    OmnisendSink(),
    ParquetSink(),
    PostgresSink(),
    S3Sink(),
    SlackSink(),
    SmtpSink(),
    TwilioSink(),
    WebengageSink(),
)
SINKS: dict[str, Sink[Any]] = {tool.kind: tool for tool in _ALL}


def sink(kind: str) -> Sink[Any]:
    """The tool of this kind. Raises SetupError, naming those there are."""
    found = SINKS.get(kind)
    if found is None:
        raise SetupError(f"no integration of kind {kind!r}; one of {', '.join(SINKS)}")
    return found


def configure(kind: str, settings: Mapping[str, Any]) -> SinkConfig:
    """An integration's settings, checked by its tool's model. Raises SetupError."""
    config: SinkConfig = sink(kind).config(settings)
    return config
