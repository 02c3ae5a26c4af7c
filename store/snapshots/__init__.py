"""Snapshots: copies of a partition at a URL, each with a manifest that says what it is."""
