"""Snapshots: copies of partitions at a URL, each with a manifest."""
