"""Metrics: what a node tells Prometheus. `catalogue` names them all, the other modules fill them."""
