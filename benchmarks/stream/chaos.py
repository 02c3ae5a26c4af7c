"""Faults, counted: nodes killed again and again, and a rolling restart under load; the harness is that of the tests."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from lifeline.dev.broker import cluster_or_broker

if TYPE_CHECKING:
    from tests.support.chaos.cluster import Cluster

SEED = 9
ROUNDS = 3

_log = structlog.get_logger(__name__)


def kill9(rounds: int, partitions: int = 4, nodes: int = 2, bootstrap_servers: str | None = None) -> int:
    """Kill a node of `nodes` with SIGKILL `rounds` times, under load, and return the number of successful rounds.

    A round succeeds if each store of the killed node has the fingerprint that an independent pass over the log computes
    at its offset, and each partition has that of the log's end after the restart. The first failed round ends the run.
    """
    # The harness exists in a checkout only.
    from tests.support.chaos.kills import kill_rounds  # noqa: PLC0415
    from tests.support.chaos.traffic import Publisher  # noqa: PLC0415

    equal = 0
    with _cluster(bootstrap_servers, partitions) as cluster, Publisher(cluster.settings.kafka, SEED) as source:
        for number, wrong in enumerate(kill_rounds(cluster, source, seed=SEED, rounds=rounds, nodes=nodes), start=1):
            equal += not wrong
            if wrong:
                _log.error("the state after a kill is wrong", round=number, why=wrong)
            elif number % 25 == 0:
                _log.info("kills", done=number, equal=equal, of=rounds)
    return equal


def rolling_restart(bootstrap_servers: str | None = None) -> int:
    """Restart two nodes in turn, several times, under reads and scores, and return how many calls failed."""
    from tests.support.chaos.rolling import rolling_restart as roll  # noqa: PLC0415
    from tests.support.chaos.traffic import Publisher  # noqa: PLC0415

    with (
        _cluster(bootstrap_servers, partitions=4) as cluster,
        Publisher(cluster.settings.kafka, SEED) as source,
    ):
        calls = roll(cluster, source, rounds=ROUNDS)
    _log.info("rolling restart", calls=calls.made, slowest_s=round(calls.slowest_s, 3), went_back=len(calls.went_back))
    for failure in calls.failed[:10]:
        _log.error("a call failed", why=failure)
    return len(calls.failed)


@contextmanager
def _cluster(bootstrap_servers: str | None, partitions: int) -> "Iterator[Cluster]":
    from tests.support.chaos.cluster import Cluster  # noqa: PLC0415

    with ExitStack() as stack:
        servers = stack.enter_context(cluster_or_broker(bootstrap_servers))
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lifeline-chaos-")))
        cluster = Cluster(servers, path, partitions=partitions, standbys=1)
        yield stack.enter_context(cluster)
