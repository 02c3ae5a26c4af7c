"""What a node's model reads is logged, comes together with what users did next, and trains another model."""

import time

import numpy as np
import pytest
import torch

from lifeline.client import LifelineClient
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.dev.node_process import NodeProcess
from lifeline.learning.logged_outcomes import logged_outcomes
from lifeline.learning.training import TrainingPlan, train_from_log
from lifeline.scorer import weights
from lifeline.scorer.config import ModelConfig, default_heads
from lifeline.scorer.errors import SelectionRecordError
from lifeline.scorer.model import TransAct
from lifeline.scorer.selection_log import decode
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.variants import variant
from lifeline.stream.topic_reader import read_topic
from tests.e2e.conftest import READY_S, NodeMaker
from tests.support.selection_world import DAY, DAYS, USERS, publish_world

pytestmark = pytest.mark.kafka


def save_model(node: NodeProcess) -> ModelConfig:
    scorer, vocabulary = node.settings.scorer, node.settings.vocabulary
    torch.manual_seed(0)
    config = variant("v2", default_heads(vocabulary))
    weights.save(scorer.models_dir, scorer.model, TransAct(config).eval(), vocabulary)
    return config


def test_from_a_nodes_log_another_model_is_trained(fresh_topics: KafkaSettings, make_node: NodeMaker) -> None:
    topic = f"selections-{fresh_topics.group_id}"
    node = make_node(fresh_topics, scorer__log_share=1.0, kafka__selections_topic=topic)
    config = save_model(node)
    begin_ms = int(time.time() * 1_000) - 20 * DAY
    publish_world(fresh_topics, begin_ms)
    node.start()
    node.wait_ready(READY_S)
    answers = {}
    with LifelineClient(node.address, timeout_s=30) as client:
        for day in range(DAYS):
            for user in range(USERS):
                at = begin_ms + day * DAY
                answers[f"user{user}", at] = client.score(f"user{user}", [3, 7, 999], timestamp_ms=at).probability
    assert node.stop() == 0

    records = list(read_topic(node.settings.kafka, topic, advice="make it"))
    assert len(records) == USERS * DAYS
    for record in records:
        logged = decode(record.value or b"")
        assert record.key == logged.user_id.encode()
        assert logged.snapshot.item_id.tolist() == [3, 7, 999]
        assert logged.selection_settings == config.selection_settings
        expected = answers[logged.user_id, logged.snapshot.context.timestamp_ms]
        np.testing.assert_allclose(logged.probability, expected, atol=1e-6)

    outcomes = logged_outcomes(node.settings, config, DAY)
    assert len(outcomes) == USERS * DAYS
    assert all(outcome.action_types.tolist() == [1, 0, 0] for outcome in outcomes)
    # The last request's outcome is open as long as three days may still bring something.
    assert len(logged_outcomes(node.settings, config, 3 * DAY + 1)) == USERS * (DAYS - 1)
    with pytest.raises(SelectionRecordError, match="train a model with the logged settings"):
        logged_outcomes(node.settings, variant("v1", config.heads), DAY)

    training = TrainSettings(steps=3, requests_per_step=4, validation_users=0.2)
    trained = train_from_log(node.settings, TrainingPlan(training))
    assert trained.metrics["train_requests"] > USERS
    assert trained.metrics["held_out_requests"] == USERS
    assert trained.model.config == config
