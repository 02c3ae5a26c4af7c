"""Lifeline: every user's history, seconds old at most, and scored where it lies."""

__version__ = "0.2.0"

INSTALL = "run `pip install 'lifeline-store[{extra}]'`, or `make setup` in a checkout of the project"
"""How to install an extra. `lifeline` on PyPI is a stranger's package, so no text tells anyone to install it."""
