"""One budget for several steps."""

import time

import pytest

from lifeline.node.deadline import Deadline


def test_the_budget_starts_once_and_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    deadline = Deadline(10)
    now = 200.0
    deadline.begin()
    now = 204.0
    deadline.begin()
    assert deadline.left() == 6.0
    now = 300.0
    assert deadline.left() == 0.0
