"""Metrics of a node, for Prometheus: `catalogue` defines them all, the other modules fill them."""
