"""How pytest-xdist spreads the tests over its workers, which take them from one queue in the order of collection."""

import json
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

TIERS = ("chaos", "kafka", "slow", "unit")
"""The tests' tiers, those of the longest tests first: three markers, and what has none of them."""


def tier_of(item: pytest.Item) -> str:
    """Return the first of the tiers that marks a test, or ``unit``."""
    return next((tier for tier in TIERS if item.get_closest_marker(tier)), "unit")


def order(items: list[pytest.Item]) -> None:
    """Put long tests first, so that no worker is left with one in the end."""
    items.sort(key=lambda item: TIERS.index(tier_of(item)))


def write_alone(path: Path, items: list[pytest.Item]) -> None:
    """Name the tests that may run on any worker: those of the long tiers that share no fixture of their module.

    The files of all others stay whole: thousands of tests take milliseconds each, and some share what is dear to make.
    """
    alone = [item.nodeid for item in items if tier_of(item) in {"chaos", "kafka"} and not _shares_fixture(item)]
    # Every worker writes the same, and none may read half of it.
    whole = path.with_name(f"{path.name}.{id(items)}")
    whole.write_text(json.dumps(alone))
    whole.replace(path)


def _shares_fixture(item: pytest.Item) -> bool:
    info = getattr(item, "_fixtureinfo", None)
    definitions = info.name2fixturedefs.values() if info else ()
    return any(found[-1].scope in {"class", "module", "package"} for found in definitions)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out files, and one by one the tests that the workers have named in `alone`.

    This is what ``--dist loadgroup`` is for; but pytest-xdist 3.8 writes groups into an attribute that pytest 9.1 and
    later do not read.
    """

    def __init__(self, config: pytest.Config, log: Any, alone: Path) -> None:
        super().__init__(config, log)
        self._path = alone
        self._alone: frozenset[str] | None = None

    def _split_scope(self, nodeid: str) -> str:
        if self._alone is None:
            self._alone = frozenset(json.loads(self._path.read_text()))
        return nodeid if nodeid in self._alone else nodeid.partition("::")[0]
