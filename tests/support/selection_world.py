"""A small world of users whose selections are logged."""

import numpy as np

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.producer.producer import LifelineProducer, make_item
from lifeline.v1.action_pb2 import Action

DAY, MINUTE = 86_400_000, 60_000
USERS, DAYS, ITEMS = 12, 10, 40


def publish_world(kafka: KafkaSettings, begin_ms: int) -> None:
    """Twenty actions of each user before the first day, one a day on item 3, and one after the last."""
    rng = np.random.default_rng(0)
    with LifelineProducer(kafka) as producer:
        for item in range(ITEMS):
            producer.publish_item(make_item(item, rng.integers(-100, 100, EMBEDDING_DIM).astype(np.int8), 1))
        for user in range(USERS):
            times = [(begin_ms - (number + 1) * MINUTE, number) for number in range(20)]
            times += [(begin_ms + day * DAY + MINUTE, 3) for day in range(DAYS)]
            times.append((begin_ms + (DAYS + 2) * DAY, 5))
            for at, item in times:
                producer.publish(Action(user_id=f"user{user}", item_id=item, timestamp_ms=at, action_type=1))
