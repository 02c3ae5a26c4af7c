"""Development and tests: Kafka and nodes as child processes."""
