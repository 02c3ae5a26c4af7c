"""Publish actions with kafka-python: a producer needs only the wire contract.

    python examples/produce_with_kafka_python.py --bootstrap-servers 127.0.0.1:9092 USER ITEM ITEM ...

The record's value is an `Action`, its key is the user id in UTF-8. The partition must be Kafka's default, murmur2 of
the key, which is also the default of kafka-python. `lifeline.producer.LifelineProducer` does all this, and also checks
each action against the vocabulary and publishes embeddings.
"""

import argparse
import time

from kafka import KafkaProducer

from lifeline.v1.action_pb2 import Action

CLICK, HOME = 2, 1
"""Ids of the default vocabulary; `lifeline config show` prints the configured one."""


def publish(bootstrap_servers: str, topic: str, user_id: str, items: list[int]) -> None:
    """Publish one click of the user on each item, and print the partition and offset of each record."""
    # A retry of an idempotent producer writes no record twice, and `all` means that every replica has it.
    with KafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", enable_idempotence=True) as producer:
        futures = []
        for item_id in items:
            now_ms = int(time.time() * 1_000)
            action = Action(user_id=user_id, item_id=item_id, timestamp_ms=now_ms, action_type=CLICK, surface=HOME)
            futures.append(producer.send(topic, key=user_id.encode(), value=action.SerializeToString()))
        # Pass the offset of an acknowledged record as `min_offset` to a read that must include it.
        for item_id, future in zip(items, futures, strict=True):
            record = future.get(30)
            print(f"item {item_id}: partition {record.partition}, offset {record.offset}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Publish clicks of a user with kafka-python.")
    parser.add_argument("--bootstrap-servers", default="127.0.0.1:9092")
    parser.add_argument("--topic", default="actions")
    parser.add_argument("user")
    parser.add_argument("items", nargs="+", type=int)
    arguments = parser.parse_args()
    publish(arguments.bootstrap_servers, arguments.topic, arguments.user, arguments.items)
