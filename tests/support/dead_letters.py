"""Reads a topic of dead letters."""

from typing import Any

from kafka import KafkaConsumer, TopicPartition

from lifeline.core.kafka_settings import KafkaSettings


def read(kafka: KafkaSettings, topic: str, partition: int, count: int) -> list[Any]:
    consumer = KafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers,
        consumer_timeout_ms=15_000,
        max_partition_fetch_bytes=8 << 20,
        fetch_max_bytes=16 << 20,
    )
    try:
        consumer.assign([TopicPartition(topic, partition)])
        consumer.seek_to_beginning()
        records = []
        for record in consumer:
            records.append(record)
            if len(records) == count:
                break
        return records
    finally:
        consumer.close()
