"""Lifeline: every user's history, seconds old at most, and scored where it lies."""

__version__ = "0.1.0"

INSTALL = "run `make setup` in a checkout of the project, or `pip install '.[{extra}]'` there"
"""How to get an extra. The name `lifeline` on PyPI is somebody else's package, and no text may name it."""
