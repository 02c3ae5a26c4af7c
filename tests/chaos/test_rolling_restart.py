"""Two nodes restart in turn under a steady load: with the client library's retries no call fails."""

import pytest

from tests.chaos.conftest import ClusterMaker, PublisherMaker
from tests.support.chaos.rolling import rolling_restart

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]


def test_no_call_fails(make_cluster: ClusterMaker, publisher: PublisherMaker, first_seed: int, is_long: bool) -> None:
    cluster = make_cluster(standbys=1)
    calls = rolling_restart(cluster, publisher(cluster.settings.kafka, first_seed), rounds=3 if is_long else 1)
    assert calls.made > 100
    assert calls.failed == []
    assert calls.went_back == []
