"""The stream: topics, producer, transport, updater, items, dead letters."""
