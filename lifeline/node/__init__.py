"""The process that holds partitions: its wiring, health, metrics, and the restore of its state."""
