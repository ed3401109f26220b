"""Benchmarks: ours and a peer in turn, in one run on one machine, several rounds, median and spread."""
