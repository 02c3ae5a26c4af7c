"""A real node's /metrics against what was done to it."""

import http.client
import time
from collections.abc import Callable, Mapping
from contextlib import closing

import pytest
from kafka import KafkaProducer
from prometheus_client.parser import text_string_to_metric_families

from lifeline.client import LifelineClient
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.dev.node_process import NodeProcess
from lifeline.node.metrics.catalogue import CATALOGUE
from lifeline.producer.producer import LifelineProducer
from lifeline.v1.action_pb2 import Action
from tests.e2e.conftest import READY_S, NodeMaker

pytestmark = pytest.mark.kafka

Values = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def get(node: NodeProcess, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection(node.settings.node.http_address, timeout=30)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def scrape(node: NodeProcess) -> Values:
    families = text_string_to_metric_families(get(node, "/metrics")[1])
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def summed(values: Values, name: str, **labels: str) -> float:
    return sum(value for (found, own), value in values.items() if found == name and labels.items() <= dict(own).items())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_scrape_tells_what_was_done(fresh_topics: KafkaSettings, make_node: NodeMaker) -> None:
    node = make_node(fresh_topics)
    node.start()
    node.wait_ready(READY_S)
    assert get(node, "/livez") == (200, "ok\n")
    assert get(node, "/readyz") == (200, "ok\n")
    now_ms = int(time.time() * 1000)
    users = [f"user-{number}" for number in range(50)]
    with LifelineProducer(fresh_topics) as producer:
        sent = [
            producer.publish(Action(user_id=user, item_id=item, timestamp_ms=now_ms + item, action_type=1))
            for user in users
            for item in range(1, 21)
        ]
        offsets = {user: sent[20 * number + 19].result(60) for number, user in enumerate(users)}
    raw = KafkaProducer(bootstrap_servers=fresh_topics.servers)
    raw.send(fresh_topics.actions_topic, key=b"ann", value=b"no action", partition=partition_of(b"ann", 4)).get(60)
    raw.close()
    with LifelineClient(node.address, timeout_s=30) as client:
        for user in users[:10]:
            assert client.get_sequence(user, min_offset=offsets[user].offset).as_of.lag_records >= 0
        client.get_sequence("nobody")
    wait_for(lambda: summed(scrape(node), "lifeline_records_total") == 1_001)

    values = scrape(node)
    assert summed(values, "lifeline_actions_total") == summed(values, "lifeline_events") == 1_000
    assert summed(values, "lifeline_events_added_total") == 1_000
    assert summed(values, "lifeline_dead_letters_total", reason="undecodable") == 1
    assert summed(values, "lifeline_action_to_readable_seconds_count") == 1_001
    assert 0 < summed(values, "lifeline_action_to_readable_seconds_sum") / 1_001 < 60
    assert summed(values, "lifeline_reads_total", result="found") == 10
    assert summed(values, "lifeline_reads_total", result="empty") == 1
    assert summed(values, "lifeline_partition_state", state="serving") == 4
    assert summed(values, "lifeline_partition_state") == 4
    assert summed(values, "lifeline_lag_records") == summed(values, "lifeline_lag_seconds") == 0
    assert summed(values, "lifeline_applied_offset") == 1_001 - 4
    assert summed(values, "lifeline_ready") == summed(values, "lifeline_live") == 1
    handled = {"grpc_service": "lifeline.v1.SequenceService", "grpc_method": "GetSequence", "grpc_code": "OK"}
    assert summed(values, "grpc_server_handled_total", **handled) == 11
    assert summed(values, "process_resident_memory_bytes") > 1 << 20
    bucketed = {"lifeline_batch_seconds", "lifeline_action_to_readable_seconds", "lifeline_rebalance_seconds"}
    bucketed |= {"lifeline_score_seconds", "lifeline_score_queue_seconds", "grpc_server_handling_seconds"}
    assert {f"{name}_count" for name in bucketed} <= {name for name, _ in values}
    served = {name for name, _ in values} | bucketed
    # What has no sample yet is not missing: nothing is followed or logged beside, no snapshot made, no item bad.
    optional = {"lifeline_standby", "lifeline_snapshot", "lifeline_item_problems", "lifeline_side"}
    assert {metric.name for metric in CATALOGUE if not metric.name.startswith(tuple(optional))} <= served
    assert node.stop() == 0
