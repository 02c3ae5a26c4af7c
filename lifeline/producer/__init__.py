"""The producer library: it publishes actions and items to Kafka, each to the partition of its key."""

from lifeline.producer.best_effort_producer import BestEffortProducer
from lifeline.producer.producer import Delivery, LifelineProducer, make_item

__all__ = ["BestEffortProducer", "Delivery", "LifelineProducer", "make_item"]
