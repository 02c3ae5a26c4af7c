"""Topics and a group for the tests of the stream."""

import pytest

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics


@pytest.fixture
def kafka(kafka_settings: KafkaSettings) -> KafkaSettings:
    settings = kafka_settings.model_copy(update={"session_timeout_ms": 6_000})
    create_topics(settings)
    return settings
