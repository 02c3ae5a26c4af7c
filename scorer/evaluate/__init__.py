"""Evaluation: tasks, what is measured on them, and one model against another."""
