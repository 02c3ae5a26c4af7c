"""Each example, run as its first lines say, against one real broker and one node."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lifeline.client import LifelineClient
from lifeline.core.actions import Kind
from lifeline.core.partitioner import partition_of
from lifeline.core.topics import create_topics
from lifeline.core.vocabulary import Vocabulary
from lifeline.dev.broker import free_port
from lifeline.dev.node_process import NodeProcess, settings_for
from lifeline.producer import LifelineProducer, make_item
from lifeline.scorer import weights
from lifeline.scorer.config import default_heads
from lifeline.scorer.model import TransAct
from lifeline.scorer.variants import variant
from lifeline.v1.action_pb2 import Action

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
READY_S = 120.0
ITEMS = (3, 7, 9)
PROGRAMS = {
    "produce_with_confluent_kafka.py",
    "produce_with_kafka_python.py",
    "ranking_service.py",
    "read_histories.py",
}


@dataclass(frozen=True)
class Running:
    """A node with a model, and a user `ann` who has clicked on every item."""

    node: NodeProcess
    client: LifelineClient

    @property
    def addresses(self) -> list[str]:
        """What a producer's example is told."""
        kafka = self.node.settings.kafka
        return ["--bootstrap-servers", kafka.bootstrap_servers, "--topic", kafka.actions_topic]


@pytest.fixture(scope="module")
def running(bootstrap_servers: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    workdir, vocabulary = tmp_path_factory.mktemp("examples"), Vocabulary()
    settings = settings_for(bootstrap_servers, workdir, vocabulary, suffix=f"-{uuid.uuid4().hex[:8]}")
    create_topics(settings.kafka)
    torch.manual_seed(0)
    model = TransAct(variant("v2", default_heads(vocabulary))).eval()
    weights.save(settings.scorer.models_dir, settings.scorer.model, model, vocabulary, version="1")
    with LifelineProducer(settings.kafka, vocabulary=vocabulary) as producer:
        for item_id in ITEMS:
            producer.publish_item(make_item(item_id, np.full(32, item_id, np.int8)))
            producer.publish(Action(user_id="ann", item_id=item_id, timestamp_ms=1_000 + item_id, action_type=2))
    with NodeProcess(settings, workdir) as node, LifelineClient(node.address, timeout_s=30) as client:
        node.start()
        node.wait_ready(READY_S)
        yield Running(node, client)


def run(name: str, *arguments: str) -> str:
    """Run an example; return what it prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_published(running: Running, user: str, printed: str) -> None:
    """Check that the records lie where Lifeline looks for the user, and that a read has them."""
    places = re.findall(r"item (\d+): partition (\d+), offset (\d+)", printed)
    assert [int(item) for item, _, _ in places] == list(ITEMS)
    partition = partition_of(user.encode(), running.node.settings.kafka.partitions)
    assert {int(number) for _, number, _ in places} == {partition}
    offset = max(int(number) for _, _, number in places)
    sequence = running.client.get_sequence(user, min_offset=offset).sequences[Kind.EXPLICIT]
    assert sorted(event.item_id for event in sequence.identities()) == list(ITEMS)


def test_kafka_python_publishes(running: Running) -> None:
    printed = run("produce_with_kafka_python.py", *running.addresses, "bob", *map(str, ITEMS))
    check_published(running, "bob", printed)


def test_confluent_kafka_publishes(running: Running) -> None:
    users, partitions = ("carol", "dave", "erin"), running.node.settings.kafka.partitions
    # librdkafka's default partitioner would put one of them at least elsewhere.
    assert any(zlib.crc32(user.encode()) % partitions != partition_of(user.encode(), partitions) for user in users)
    for user in users:
        printed = run("produce_with_confluent_kafka.py", *running.addresses, user, *map(str, ITEMS))
        check_published(running, user, printed)


def test_histories_become_arrays_and_tensors(running: Running) -> None:
    printed = run("read_histories.py", "--address", running.node.address, "--length", "5", "ann", "nobody")
    norm = np.mean(ITEMS) * 0.65 / 127 * np.sqrt(32)
    assert printed.splitlines() == [
        "embedding (2, 5, 32), mean of items (2, 32)",
        f"'ann': 3 events, |mean| {norm:.3f}",
        "'nobody': 0 events, |mean| 0.000",
    ]


@contextmanager
def ranking_service(address: str, log: Path) -> Iterator[str]:
    """Run the ranking service; yield its URL once it answers."""
    url = f"127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", str(port), "ranking_service:app"]
    variables = {"LIFELINE_ADDRESS": address, "RANKING_TIMEOUT_S": "30"}
    with log.open("w") as output, subprocess.Popen(command, env=ENVIRONMENT | variables, stderr=output) as process:
        try:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                try:
                    with urllib.request.urlopen(f"http://{url}/openapi.json", timeout=5):
                        break
                except OSError:
                    time.sleep(0.1)
            else:
                pytest.fail(f"the service does not answer:\n{log.read_text()}")
            yield f"http://{url}"
        finally:
            process.terminate()


def rank(url: str, **body: object) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/rank", json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        ranking: dict[str, Any] = json.load(reply)
        return ranking


def test_the_ranking_service_ranks(running: Running, tmp_path: Path) -> None:
    with ranking_service(running.node.address, tmp_path / "uvicorn.log") as url:
        ranking = rank(url, user_id="ann", candidates=ITEMS)
        assert (ranking["is_ranked"], ranking["model_version"]) == (True, "1")
        # The model is not trained: its scores move with the time, and are those of a call at nearly the same time.
        scores = running.client.score("ann", ITEMS)
        expected = dict(zip(scores.item_id.tolist(), scores.score.tolist(), strict=True))
        ranked = {item["item_id"]: item["score"] for item in ranking["items"]}
        assert ranked == pytest.approx(expected, abs=0.01)
        assert list(ranked.values()) == sorted(ranked.values(), reverse=True)
        for refused in (
            {"user_id": "", "candidates": ITEMS},
            {"user_id": "ann", "candidates": [-1]},
            {"user_id": "ann", "candidates": [2**64]},
            {"user_id": "ann", "candidates": ITEMS, "min_offset": -1},
        ):
            with pytest.raises(urllib.error.HTTPError, match="422"):
                rank(url, **refused)


def test_every_program_is_run_here_and_has_a_line_in_the_list() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == PROGRAMS
    rows = set(re.findall(r"^\| `([^`]+)`", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
    assert rows == PROGRAMS | {"rails-history/"}
