"""The file with the name and the cluster's id of the topic that the data of a directory comes from.

A topic that was deleted and created again has other records at the same offsets, and another id. Without the note a
node would resume in the middle of the new topic. There is one in the data directory, for the partitions, and one beside
the embedding table. The first one also has the number of partitions that the directory was built with, on which every
user's partition depends: the topic may have been given more since.
"""

import json
from pathlib import Path
from typing import NamedTuple, Self

from lifeline.config import Settings
from lifeline.core.atomic_files import write_durably
from lifeline.core.errors import DataDirError

TOPIC_NOTE = "topic.json"


class TopicRole(NamedTuple):
    """What a topic is for."""

    setting: str
    """The setting with its name."""
    advice: str
    """How to start over when the topic was created again; ``{}`` stands for the directory."""


ACTIONS = TopicRole(
    "kafka.actions_topic",
    "set {} aside, or replay the topic with `lifeline replay --into DIR --swap`",
)
ITEMS = TopicRole(
    "kafka.items_topic",
    "set {} aside and start again. The embeddings are then read from the topic as it is now, so first publish the "
    "items that it lacks",
)


class TopicIdentity(NamedTuple):
    """The identity of a topic in one cluster."""

    topic: str
    topic_id: str
    """Empty if the cluster has none (brokers before 2.8)."""
    partitions: int = 0
    """The number of partitions by which a user's partition was found; 0 for a topic where it does not matter."""

    @classmethod
    def of(cls, directory: Path) -> Self | None:
        """Read the note of a directory, None if it has none; raises DataDirError."""
        note = directory / TOPIC_NOTE
        return cls.read(note) if note.exists() else None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a note; raises DataDirError."""
        try:
            fields = json.loads(path.read_text())
            return cls(str(fields["topic"]), str(fields["topic_id"]), int(fields["partitions"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataDirError(
                f"{path} does not describe the topic of the data beside it ({error!r}): remove it if you know that it "
                "comes from the configured topic, while that had kafka.partitions partitions"
            ) from error

    def check(self, directory: Path, role: TopicRole = ACTIONS) -> None:
        """Write the note if the directory has none; raise DataDirError if its note names another topic."""
        note = directory / TOPIC_NOTE
        if not note.exists():
            write_durably(note, json.dumps(self._asdict()) + "\n")
            return
        before = self.read(note)
        if before.topic != self.topic:
            raise DataDirError(
                f"{directory} was built from topic {before.topic}, and {role.setting} is {self.topic}: name that "
                "topic, or another directory"
            )
        if before.topic_id and self.topic_id and before.topic_id != self.topic_id:
            raise DataDirError(
                f"{directory} was built from topic {self.topic} with the id {before.topic_id}, and in this cluster its "
                f"id is {self.topic_id}: the topic was created again, or this is another cluster. Correct "
                f"kafka.bootstrap_servers, or start over: {role.advice.format(directory)}"
            )
        if before.partitions != self.partitions:
            raise DataDirError(
                f"{directory} was built with {before.partitions} partitions, and kafka.partitions is "
                f"{self.partitions}: set it to {before.partitions}, or name another directory"
            )


def with_partitions_of(settings: Settings, directory: Path) -> Settings:
    """Return the settings with the number of partitions that a directory was built with; raises DataDirError."""
    note = TopicIdentity.of(directory)
    if note is None or note.partitions == settings.kafka.partitions:
        return settings
    kafka = settings.kafka.model_copy(update={"partitions": note.partitions})
    return settings.model_copy(update={"kafka": kafka})
