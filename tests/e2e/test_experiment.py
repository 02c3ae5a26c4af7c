"""Two versions side by side on a real node: users keep their arms, exposures are logged, and the report adds up."""

import json
import time
from collections import Counter

import pytest
import torch
from typer.testing import CliRunner

from lifeline.cli import app
from lifeline.client import LifelineClient
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.learning.experiment_report import experiment_report
from lifeline.producer.producer import LifelineProducer
from lifeline.scorer import weights
from lifeline.scorer.config import default_heads
from lifeline.scorer.errors import ExperimentError
from lifeline.scorer.experiment import CONTROL, Arm, arm_of
from lifeline.scorer.model import TransAct
from lifeline.scorer.variants import variant
from lifeline.stream.topic_reader import read_topic
from lifeline.v1.action_pb2 import Action
from lifeline.v1.exposure_pb2 import Exposure
from tests.e2e.conftest import READY_S, NodeMaker

pytestmark = pytest.mark.kafka

USERS = [f"user{number}" for number in range(60)]
ARMS = {CONTROL: Arm(version="one", share=0.4), "new": Arm(version="two", share=0.4)}


def test_two_versions_answer_their_own_users_and_the_report_says_who_did_more(
    fresh_topics: KafkaSettings, make_node: NodeMaker
) -> None:
    topic = f"exposures-{fresh_topics.group_id}"
    node = make_node(
        fresh_topics,
        kafka__exposures_topic=topic,
        scorer__experiment="colours",
        scorer__arms=ARMS,
        scorer__version="base",
    )
    scorer, vocabulary = node.settings.scorer, node.settings.vocabulary
    for seed, version in enumerate(("base", "one", "two")):
        torch.manual_seed(seed)
        model = TransAct(variant("none", default_heads(vocabulary))).eval()
        weights.save(scorer.models_dir, scorer.model, model, vocabulary, version=version)
    arm = {user: arm_of("colours", user, ARMS) for user in USERS}
    node.start()
    node.wait_ready(READY_S)
    now_ms = int(time.time() * 1_000)
    with LifelineClient(node.address, timeout_s=30) as client:
        for user in USERS:
            for _ in range(2):
                answer = client.score(user, [1, 2, 3], timestamp_ms=now_ms)
                assert answer.model_version == {CONTROL: "one", "new": "two", None: "base"}[arm[user]]
        with LifelineProducer(fresh_topics) as producer:
            for number, user in enumerate(USERS):
                # Who is in the new arm does about twice as much; one action comes before the exposure.
                done = (2 if arm[user] == "new" else 1) + number % 2
                for place in range(-1, done):
                    action = Action(user_id=user, item_id=place + 9, timestamp_ms=now_ms + place * 1_000, action_type=1)
                    offset = producer.publish(action).result(30).offset
                client.get_sequence(user, min_offset=offset)
    assert node.stop() == 0

    exposures = [
        Exposure.FromString(record.value or b"") for record in read_topic(node.settings.kafka, topic, advice="")
    ]
    assert Counter(exposure.user_id for exposure in exposures) == {user: 2 for user in USERS if arm[user]}
    for exposure in exposures:
        assert (exposure.arm, sorted(exposure.item_id)) == (arm[exposure.user_id], [1, 2, 3])

    found = experiment_report(node.settings)
    assert found.users == Counter(name for name in arm.values() if name)
    assert (found.crossed, found.elsewhere) == (0, 0)
    assert found.sample_ratio_p > 0.001
    (compared,) = found.compared
    first = next(name for name, action_type in vocabulary.action_types.items() if action_type.id == 1)
    lift = compared.lifts[first]
    own = {
        name: [number % 2 + extra for number, user in enumerate(USERS) if arm[user] == name]
        for name, extra in ((CONTROL, 1), ("new", 2))
    }
    assert lift.control == pytest.approx(sum(own[CONTROL]) / len(own[CONTROL]))
    assert lift.treated == pytest.approx(sum(own["new"]) / len(own["new"]))
    assert lift.low > 0
    assert lift.p < 0.01
    # The first action of whoever acts comes at the moment of the exposure, and the others a second apart.
    short = experiment_report(node.settings, 1).compared[0].lifts[first]
    assert (short.control, short.treated) == (1, 1)

    environment = {
        "LIFELINE_KAFKA__BOOTSTRAP_SERVERS": fresh_topics.bootstrap_servers,
        "LIFELINE_KAFKA__EXPOSURES_TOPIC": topic,
        "LIFELINE_KAFKA__PARTITIONS": str(fresh_topics.partitions),
        "LIFELINE_SCORER__EXPERIMENT": "colours",
        "LIFELINE_SCORER__ARMS": json.dumps({name: settings.model_dump() for name, settings in ARMS.items()}),
    }
    command = ["experiment", "report", "--data-dir", str(node.settings.node.data_dir)]
    shown = CliRunner().invoke(app, command, env=environment)
    assert shown.exit_code == 0, shown.output
    assert "new against control" in shown.output
    assert "they match" in shown.output
    as_json = CliRunner().invoke(app, [*command, "--json"], env=environment)
    assert json.loads(as_json.stdout)["users"] == found.users

    other = node.settings.model_copy(update={"scorer": scorer.model_copy(update={"experiment": "shapes"})})
    with pytest.raises(ExperimentError, match="too few: wait for more"):
        experiment_report(other)
    none = node.settings.model_copy(update={"scorer": scorer.model_copy(update={"experiment": "", "arms": {}})})
    with pytest.raises(ExperimentError, match=r"set scorer.experiment and scorer.arms"):
        experiment_report(none)
