"""Lifeline: every user's history, seconds old at most, and scored where it lies."""
