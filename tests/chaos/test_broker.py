"""The broker dies, stops and comes back, alone and among the faults of nodes."""

from pathlib import Path

import pytest

from lifeline.dev.broker import Broker, free_port
from tests.chaos.conftest import ClusterMaker, PublisherMaker
from tests.support.chaos.schedule import Action, Schedule, Step, schedule

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]
PER_S = 500
OUTAGE = Schedule(
    0,
    ("node-1",),
    1,
    (
        Step(0.3, Action.BROKER_KILL),
        Step(0.5, Action.KILL, "node-1"),
        Step(0.2, Action.BROKER_START),
        Step(0.0, Action.START, "node-1"),
    ),
)


def test_the_log_goes_and_comes_back(
    tmp_path: Path, make_cluster: ClusterMaker, publisher: PublisherMaker, first_seed: int, is_long: bool
) -> None:
    if not is_long:
        pytest.skip("an outage alone is in tests/e2e/test_outage.py: run make chaos for schedules of them")
    seeds = range(first_seed, first_seed + 6)
    plans = [OUTAGE, *(schedule(seed, faults=12, nodes=2 + seed % 2, actions=tuple(Action)) for seed in seeds)]
    for number, plan in enumerate(plans):
        broker = Broker.start(tmp_path / f"kafka-{number}", port=free_port())
        with make_cluster(f"cluster-{number}", broker=broker) as cluster:
            source = publisher(cluster.settings.kafka, plan.seed)
            try:
                with source.steady(PER_S):
                    cluster.run(plan)
                cluster.check()
            except BaseException as error:
                error.add_note(str(plan))
                raise
