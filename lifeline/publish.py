"""Publishing a source: embeddings first, then its actions, with a progress bar."""

import time
from collections.abc import Iterable
from typing import NamedTuple

from rich.progress import Progress

from lifeline.sources import Source
from lifeline.v1.item_pb2 import Item
from store.vocabulary import Vocabulary
from stream.producer import LifelineProducer
from stream.settings import KafkaSettings

_UPDATE_EVERY = 1_000


class Published(NamedTuple):
    """What was acknowledged."""

    actions: int
    items: int
    seconds: float


def publish(
    kafka: KafkaSettings, source: Source, items: Iterable[Item], vocabulary: Vocabulary, progress: Progress
) -> Published:
    """Publish every item and then every action; returns once all are acknowledged.

    Raises SourceError, ClusterUnreachableError, InvalidActionError, InvalidItemError, PublishError.
    """
    started = time.monotonic()
    with LifelineProducer(kafka, vocabulary=vocabulary) as producer:
        embeddings = 0
        for item in items:
            producer.publish_item(item)
            embeddings += 1
        task = progress.add_task(f"publishing {source.name}", total=source.total, note="")
        actions = 0
        for action in source:
            producer.publish(action)
            actions += 1
            if actions % _UPDATE_EVERY == 0:
                rate = actions / (time.monotonic() - started)
                progress.update(task, completed=actions, note=f"{rate:,.0f}/s")
        producer.flush()
        progress.update(task, completed=actions, total=actions)
    return Published(actions, embeddings, time.monotonic() - started)
