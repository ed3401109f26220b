"""Headrace: event sources to counted segments and delivered notifications, on Apache Kafka."""

__version__ = "0.1.0"
