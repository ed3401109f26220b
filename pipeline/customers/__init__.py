"""Customers: the record of one person, and what an event, a merge and the passing of time do to it.

Pure domain: no Kafka, no clock, no I/O; `pipeline.segments` says what counts.
"""
