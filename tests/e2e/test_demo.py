"""The demo, as a newcomer runs it, with a training that is shorter."""

import os
import re
import subprocess
import sys

import pytest

from lifeline.sources import HISTORY_VARIABLE

pytestmark = pytest.mark.kafka


def test_the_demo_ends_by_itself_and_tells_what_it_measured(bootstrap_servers: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lifeline", "demo", "--train-seconds", "5", "--bootstrap-servers", bootstrap_servers],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={name: value for name, value in os.environ.items() if name != HISTORY_VARIABLE} | {"COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stderr
    for step in ("A history", "Apache Kafka", "Publish", "A node", "Read", "Train", "Score", "One more action"):
        assert re.search(rf"^\d\. {step}", done.stdout, re.MULTILINE), step
    assert "the history of rails' files: 214,954 actions" in done.stdout
    assert "lag 0: serving" in done.stdout
    assert "tokens selected" in done.stdout
    moved = re.search(r"score went from (\d\.\d+) to\s+(\d\.\d+)", done.stdout)
    assert moved is not None
    assert moved[1] != moved[2]
    assert "the figures of this demo" in done.stdout
