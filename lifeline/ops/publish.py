"""Publishing a source: embeddings first, then its actions, with a progress bar."""

import time
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from rich.progress import Progress

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.vocabulary import Vocabulary
from lifeline.producer.producer import LifelineProducer
from lifeline.sources.files import Source, SourceError
from lifeline.v1.item_pb2 import Item

_UPDATE_EVERY = 1_000


class PublishResult(NamedTuple):
    """The numbers of acknowledged records."""

    actions: int
    items: int
    seconds: float
    busiest_user: str
    """The user with the most actions; empty if there are no actions."""


def publish(
    kafka: KafkaSettings, source: Source, items: Iterable[Item], vocabulary: Vocabulary, progress: Progress
) -> PublishResult:
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
        of_user: Counter[str] = Counter()
        try:
            for action in source:
                producer.publish(action)
                of_user[action.user_id] += 1
                actions += 1
                if actions % _UPDATE_EVERY == 0:
                    rate = actions / (time.monotonic() - started)
                    progress.update(task, completed=actions, note=f"{rate:,.0f}/s")
        except SourceError as error:
            producer.flush()
            raise SourceError(
                f"{error}. The {actions:,} actions before it are published; publishing them again is harmless"
            ) from error
        producer.flush()
        progress.update(task, completed=actions, total=actions)
    busiest = of_user.most_common(1)
    return PublishResult(actions, embeddings, time.monotonic() - started, busiest[0][0] if busiest else "")
