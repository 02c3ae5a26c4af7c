"""The process that holds partitions: its wiring, health, metrics, and how its state comes back."""
