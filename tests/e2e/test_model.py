"""A node's model is exchanged while callers score: no call fails."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lifeline.client import LifelineClient
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.dev.node_process import NodeProcess
from lifeline.scorer import weights
from lifeline.scorer.config import default_heads
from lifeline.scorer.model import TransAct
from lifeline.scorer.variants import variant
from tests.e2e.conftest import READY_S, NodeMaker
from tests.support.commands import run_cli
from tests.support.selection_world import DAY, publish_world

pytestmark = pytest.mark.kafka


def test_a_model_is_exchanged_under_load(fresh_topics: KafkaSettings, make_node: NodeMaker) -> None:
    node = make_node(fresh_topics)
    publish_world(fresh_topics, int(time.time() * 1_000) - 20 * DAY)
    node.start()
    node.wait_ready(READY_S)
    scorer, vocabulary = node.settings.scorer, node.settings.vocabulary
    shown = json.loads(run_cli(node, "model", "show", "--json").stdout)
    assert (shown["version"], shown["versions"]) == ("", [])
    assert not has_torch(node)
    for number, name in enumerate(("v2", "v1", "none"), start=1):
        torch.manual_seed(number)
        model = TransAct(variant(name, default_heads(vocabulary))).eval()
        weights.save(scorer.models_dir, scorer.model, model, vocabulary, version=str(number))
    assert json.loads(run_cli(node, "model", "use", "1", "--json").stdout) == {"version": "1", "previous": ""}
    assert has_torch(node)

    ended = threading.Event()

    def score(user: str) -> set[str]:
        seen = set()
        with LifelineClient(node.address, timeout_s=30, retry=False) as client:
            while not ended.is_set():
                seen.add(client.score(user, [3, 7, 999]).model_version)
        return seen

    with ThreadPoolExecutor(2) as pool:
        callers = [pool.submit(score, user) for user in ("user1", "user2")]
        try:
            with LifelineClient(node.address, timeout_s=30) as operator:
                for version in ("2", "3", "1", "3"):
                    time.sleep(0.2)
                    operator.use_model(version)
                time.sleep(0.2)
        finally:
            ended.set()
        assert [caller.result() for caller in callers] == [{"1", "2", "3"}] * 2
    assert json.loads(run_cli(node, "model", "show", "--json").stdout)["version"] == "3"
    refused = run_cli(node, "model", "use", "9")
    assert refused.returncode == 1
    assert "MODEL_NOT_FOUND" in refused.stderr
    assert node.stop() == 0


def has_torch(node: NodeProcess) -> bool:
    """Return whether the process has loaded torch: a node that serves no model has not."""
    return "libtorch" in Path(f"/proc/{node.pid}/maps").read_text()
