"""A cluster whose brokers have addresses that do not lead there: every client says which, and what to set."""

from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaAdminClient

from lifeline.core.kafka_errors import BrokerAddressError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics, topic_id
from lifeline.producer.producer import LifelineProducer
from lifeline.stream.dead_letter_reader import read_letters
from lifeline.stream.replay import log_ranges
from tests.support.rewriting_proxy import RewritingProxy

pytestmark = pytest.mark.kafka

BROKER = "127.0.0.1"


@pytest.fixture(scope="module")
def renamed(bootstrap_servers: str) -> Iterator[KafkaSettings]:
    """A broker that says it is at a name that nobody resolves (RFC 6761)."""
    with RewritingProxy(bootstrap_servers, before=BROKER, after="a.invalid") as proxy:
        yield KafkaSettings(bootstrap_servers=proxy.address, connect_timeout_ms=200)


def produce(kafka: KafkaSettings) -> None:
    LifelineProducer(kafka).close()


def administer(kafka: KafkaSettings) -> None:
    topic_id(kafka, kafka.actions_topic)


def read(kafka: KafkaSettings) -> None:
    list(read_letters(kafka))


@pytest.mark.parametrize("use", [produce, administer, read])
def test_a_name_that_does_not_resolve_is_named(renamed: KafkaSettings, use: Callable[[KafkaSettings], None]) -> None:
    message = r"Kafka answers at 127\.0\.0\.1:\d+.*: a\.invalid:\d+ does not resolve\. Set advertised\.listeners"
    with pytest.raises(BrokerAddressError, match=message):
        use(renamed)


async def test_a_replay_names_it_too(renamed: KafkaSettings) -> None:
    with pytest.raises(BrokerAddressError, match="does not resolve"):
        await log_ranges(renamed)


def test_so_is_an_address_where_nobody_listens(bootstrap_servers: str) -> None:
    with RewritingProxy(bootstrap_servers, before=BROKER, after="127.9.9.9") as proxy:
        kafka = KafkaSettings(bootstrap_servers=proxy.address, connect_timeout_ms=200)
        with pytest.raises(BrokerAddressError, match=r"127\.9\.9\.9:\d+ does not answer \(ConnectionRefusedError\)"):
            administer(kafka)


def test_an_address_other_than_the_bootstrap_servers_is_used(
    bootstrap_servers: str, kafka_settings: KafkaSettings
) -> None:
    with RewritingProxy(bootstrap_servers, before=BROKER, after=BROKER) as proxy:
        create_topics(kafka_settings.model_copy(update={"bootstrap_servers": proxy.address}))
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        assert kafka_settings.actions_topic in admin.list_topics()
    finally:
        admin.close()
