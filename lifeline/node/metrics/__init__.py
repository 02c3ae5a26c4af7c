"""Metrics of a node for Prometheus: `catalogue` defines them, and the other modules set their values."""
