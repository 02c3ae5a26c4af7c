"""Nodes with many partitions, under a low limit of open files."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics
from lifeline.store.open_files import NODE_FILES, PARTITION_FILES
from tests.e2e.conftest import READY_S, NodeMaker
from tests.support.processes import open_files

PARTITIONS = 32
LOW = 200


@contextmanager
def soft_limit(files: int) -> Iterator[None]:
    """Lower the soft limit of this process, for the children that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_hard_limit_that_is_too_low_is_refused_before_the_start(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    config = tmp_path / "lifeline.toml"
    config.write_text(f"[kafka]\npartitions = {PARTITIONS}\n")
    # No cluster is asked.
    command = ["node", "--config", str(config), "--bootstrap-servers", "127.0.0.1:1", "--data-dir", str(data_dir)]
    refused = subprocess.run(
        ["sh", "-c", f'ulimit -n {LOW} && exec "$@"', "sh", sys.executable, "-m", "lifeline", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    said = " ".join(refused.stderr.split())
    assert "32 partitions need 960 open files, and this process may have 200" in said
    assert "LimitNOFILE" in said
    assert "Traceback" not in said
    assert not data_dir.exists()


@pytest.mark.kafka
def test_a_low_soft_limit_is_raised_and_the_node_serves(kafka_settings: KafkaSettings, make_node: NodeMaker) -> None:
    topics = kafka_settings.model_copy(update={"partitions": PARTITIONS})
    create_topics(topics)
    node = make_node(topics)
    with soft_limit(LOW):
        node.start()
    node.wait_ready(READY_S)
    limits = Path(f"/proc/{node.pid}/limits").read_text()
    soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
    assert soft == hard
    names = open_files(node.pid)
    in_partitions = [name for name in names if "/partition-" in name]
    assert LOW < len(in_partitions) <= PARTITIONS * PARTITION_FILES
    # Without connections of callers.
    assert len(names) - len(in_partitions) < NODE_FILES // 2
    assert node.stop() == 0
