"""Measure a box: suites, peers to compare with, results as one JSON file, comparing and drawing them."""

SUITES = ("latency", "rag", "retrieval", "load", "memory", "energy")
"""In the order in which they run: cold starts come before anything holds the weights."""
