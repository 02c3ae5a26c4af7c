"""Publish actions with confluent-kafka, which needs a setting for the partitioner.

    pip install confluent-kafka
    python examples/produce_with_confluent_kafka.py --bootstrap-servers 127.0.0.1:9092 USER ITEM ITEM ...

By default librdkafka, the library behind confluent-kafka, chooses the partition by CRC-32 of the key. Kafka's Java
client, kafka-python and Lifeline use murmur2. A node dead-letters a record in the wrong partition, because reads of the
user go to the owner of the key's partition. So every producer that uses librdkafka (Python, Go, C#, C++, PHP) must set
`partitioner` to `murmur2_random`.
"""

import argparse
import time

from confluent_kafka import KafkaError, Message, Producer

from lifeline.v1.action_pb2 import Action

CLICK, HOME = 2, 1
"""Ids of the default vocabulary; `lifeline config show` prints the configured one."""


def publish(bootstrap_servers: str, topic: str, user_id: str, items: list[int]) -> None:
    """Publish one click of the user on each item, and print the partition and offset of each record."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "partitioner": "murmur2_random",
            # A retry of an idempotent producer writes no record twice, and `all` means that every replica has it.
            "acks": "all",
            "enable.idempotence": True,
        }
    )
    failures: list[str] = []

    def report(error: KafkaError | None, record: Message) -> None:
        """Handle one delivery report; librdkafka calls this from `poll` and `flush`."""
        if error is not None:
            failures.append(str(error))
            return
        item_id = Action.FromString(record.value() or b"").item_id
        print(f"item {item_id}: partition {record.partition()}, offset {record.offset()}")

    for item_id in items:
        now_ms = int(time.time() * 1_000)
        action = Action(user_id=user_id, item_id=item_id, timestamp_ms=now_ms, action_type=CLICK, surface=HOME)
        producer.produce(topic, key=user_id.encode(), value=action.SerializeToString(), on_delivery=report)
        producer.poll(0)
    if undelivered := producer.flush(30):
        failures.append(f"{undelivered} records were not acknowledged within 30 s")
    if failures:
        raise SystemExit("; ".join(failures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Publish clicks of a user with confluent-kafka.")
    parser.add_argument("--bootstrap-servers", default="127.0.0.1:9092")
    parser.add_argument("--topic", default="actions")
    parser.add_argument("user")
    parser.add_argument("items", nargs="+", type=int)
    arguments = parser.parse_args()
    publish(arguments.bootstrap_servers, arguments.topic, arguments.user, arguments.items)
