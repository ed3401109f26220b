"""Segments: named conditions on customers, compiled, described, checked and counted (design: segments).

Pure domain: no Kafka, no clock, no I/O.
"""
