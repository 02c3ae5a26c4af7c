"""The long form of these tests (`make chaos`) and the short one (part of `make test`); clusters and publishers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from kafka.net.inet import KafkaNetSocket

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.dev.broker import Broker
from tests.support.chaos.cluster import Cluster
from tests.support.chaos.traffic import Publisher

ClusterMaker = Callable[..., Cluster]
PublisherMaker = Callable[[KafkaSettings, int], Publisher]


@pytest.fixture
def make_cluster(bootstrap_servers: str, tmp_path: Path) -> Iterator[ClusterMaker]:
    """Make clusters on the session's broker, or on one that is given."""
    with ExitStack() as stack:

        def make(name: str = "cluster", broker: Broker | None = None, **given: Any) -> Cluster:
            path = tmp_path / name
            path.mkdir()
            servers = broker.bootstrap_servers if broker else bootstrap_servers
            return stack.enter_context(Cluster(servers, path, broker=broker, **given))

        yield make


@pytest.fixture
def publisher() -> Iterator[PublisherMaker]:
    with ExitStack() as stack:
        yield lambda kafka, seed: stack.enter_context(Publisher(kafka, seed))


@pytest.fixture(autouse=True)
def closed_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close the sockets that a broker which is away has refused: kafka-python forgets them, and a warning fails."""
    connect = KafkaNetSocket.sock_connect

    async def connect_or_close(self: Any, net: Any, sock: Any, *given: Any, **named: Any) -> Any:
        try:
            return await connect(self, net, sock, *given, **named)
        except BaseException:
            sock.close()
            raise

    monkeypatch.setattr(KafkaNetSocket, "sock_connect", connect_or_close)
