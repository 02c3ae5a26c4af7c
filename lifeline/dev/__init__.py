"""Kafka and nodes as child processes, for development and tests."""
