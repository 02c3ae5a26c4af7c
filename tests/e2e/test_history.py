"""The whole history through Kafka and a node: nothing lost, nothing twice, whatever dies."""

import json
import random
import time
from collections import defaultdict

import pytest

from lifeline.client import LifelineClient
from lifeline.core.actions import Identity, Kind
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.sequence import SequenceQuery
from lifeline.dev.node_process import NodeProcess
from lifeline.ops.offline import open_partitions
from lifeline.ops.publish import publish
from lifeline.sources.history import History
from lifeline.store.reader import SequenceReader
from tests.e2e.conftest import READY_S, NodeMaker, silent
from tests.support.commands import run_cli, tamper
from tests.support.states import states

pytestmark = pytest.mark.kafka
KILLS = 10


def expected(history: History, cap: int, kind: Kind) -> dict[str, list[Identity]]:
    """Compute every user's sequence in plain Python from the rows of the file."""
    wanted: dict[str, set[Identity]] = defaultdict(set)
    kinds = history.vocabulary.kind_of_type
    for user, ts, item, action, surface in zip(
        history.user_id,
        history.timestamp_ms.tolist(),
        history.item_id.tolist(),
        history.action_type.tolist(),
        history.surface.tolist(),
        strict=True,
    ):
        if kinds[action] == kind:
            wanted[user].add(Identity(ts, item, action << 8 | surface))
    return {user: sorted(identities)[-cap:] for user, identities in wanted.items()}


def test_every_sequence_is_the_one_that_plain_python_computes(
    published: KafkaSettings, history: History, make_node: NodeMaker
) -> None:
    node = make_node(published)
    node.start()
    node.wait_ready(READY_S)
    wanted = {kind: expected(history, node.settings.store.cap(kind), kind) for kind in Kind}

    # Over the wire, for the longest and some others.
    explicit = wanted[Kind.EXPLICIT]
    users = history.longest_users(20) + sorted(explicit)[::100]
    with LifelineClient(node.address, timeout_s=30) as client:
        for user in users:
            found = client.get_sequence(user).sequences[Kind.EXPLICIT]
            assert found.identities() == explicit[user], user

    # In the store, for all.
    with open_partitions(node.settings) as stores:
        seen = 0
        for store in stores:
            reader = SequenceReader(store)
            for user in store.users():
                sequences = reader.read(user, SequenceQuery(kinds=tuple(Kind))).sequences
                for kind in Kind:
                    assert sequences[kind].identities() == wanted[kind].get(user, []), (user, kind)
                seen += 1
        assert seen == len(set(history.user_id))
        total = sum(store.state.events for store in stores)
    assert total == sum(len(sequence) for of_kind in wanted.values() for sequence in of_kind.values())
    if history.name == "rails":
        assert total == 213_385

    log = run_cli(node, "verify", "--json")
    assert log.returncode == 0, log.stderr
    assert json.loads(log.stdout)["equal"]
    assert node.stop() == 0


def test_killed_ten_times_it_ends_with_the_same_fingerprint(published: KafkaSettings, make_node: NodeMaker) -> None:
    whole = make_node(published, "whole")
    whole.start()
    whole.wait_ready(READY_S)
    assert whole.stop() == 0

    # Small batches, so that there is an ingest to be killed in.
    killed = make_node(
        published,
        "killed",
        updater__batch_max_records=200,
        # A static member comes back at once; any other waits until the group has given up the killed one.
        kafka__group_instance_id="killed",
    )
    rng = random.Random(7)
    in_the_middle = 0
    for _ in range(KILLS):
        killed.start()
        wait_for_ingest(killed)
        time.sleep(rng.uniform(0.0, 0.4))  # the moment of the kill is what is random here
        killed.kill()
        now, end = states(killed.settings), states(whole.settings)
        in_the_middle += any(now[number].applied_offset < end[number].applied_offset for number in now)
    assert in_the_middle >= KILLS // 2, "the node was killed after the ingest, not in it"
    killed.start()
    killed.wait_ready(READY_S)
    assert killed.stop() == 0
    assert states(killed.settings) == states(whole.settings)


def wait_for_ingest(node: NodeProcess) -> None:
    """Return once a partition is consumed."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        event = node.next_event(0.2)
        if event is not None and event.get("state") in {"catching_up", "serving"}:
            return
    raise AssertionError("no partition was consumed in time")


def test_producing_everything_twice_changes_nothing_but_the_offset(
    fresh_topics: KafkaSettings, short_history: History, make_node: NodeMaker
) -> None:
    node = make_node(fresh_topics)
    publish(node.settings.kafka, short_history.source(), (), short_history.vocabulary, silent())
    node.start()
    node.wait_ready(READY_S)
    assert node.stop() == 0
    once = states(node.settings)
    publish(node.settings.kafka, short_history.source(), (), short_history.vocabulary, silent())
    node.start()
    node.wait_ready(READY_S)
    assert node.stop() == 0
    twice = states(node.settings)
    for number, before in once.items():
        assert twice[number].applied_offset == 2 * before.applied_offset + 1
        assert twice[number]._replace(applied_offset=before.applied_offset) == before


def test_verify_names_the_users_that_differ(
    fresh_topics: KafkaSettings, short_history: History, make_node: NodeMaker
) -> None:
    node = make_node(fresh_topics)
    publish(node.settings.kafka, short_history.source(), (), short_history.vocabulary, silent())
    node.start()
    node.wait_ready(READY_S)
    assert node.stop() == 0
    user = short_history.longest_users(1)[0]
    tamper(node, user)
    answer = run_cli(node, "verify", "--json")
    assert answer.returncode == 3, answer.stderr
    different = [row["different_users"] for row in json.loads(answer.stdout)["comparisons"] if row["different_users"]]
    assert different == [[user]]
