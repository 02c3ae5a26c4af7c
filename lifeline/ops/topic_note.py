"""The note that says which topic the partitions of a directory come from: its name and its id in the cluster.

A topic that was deleted and created again has other records at the same offsets, and another id. Without the note a
node would resume in the middle of the new topic.
"""

import json
from pathlib import Path
from typing import NamedTuple, Self

from lifeline.core.atomic_files import write_durably
from lifeline.core.errors import DataDirError

TOPIC_NOTE = "topic.json"


class TopicIdentity(NamedTuple):
    """The identity of a topic in one cluster."""

    topic: str
    topic_id: str
    """Empty when the cluster gives none (brokers before 2.8)."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a note; raises DataDirError."""
        try:
            found = json.loads(path.read_text())
            return cls(str(found["topic"]), str(found["topic_id"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataDirError(
                f"{path} does not say which topic the partitions beside it were made from ({error}): remove it when "
                "you know that it is the configured one"
            ) from error

    def check(self, directory: Path) -> None:
        """Write the note into a directory, or raise DataDirError when the one there names another topic."""
        note = directory / TOPIC_NOTE
        if not note.exists():
            write_durably(note, json.dumps(self._asdict()) + "\n")
            return
        before = self.read(note)
        if before.topic != self.topic:
            raise DataDirError(
                f"{directory} was made from topic {before.topic}, and kafka.actions_topic is {self.topic}: name that "
                "topic, or another directory"
            )
        if before.topic_id and self.topic_id and before.topic_id != self.topic_id:
            raise DataDirError(
                f"{directory} was made from topic {self.topic} with the id {before.topic_id}, and the cluster's has "
                f"{self.topic_id}: it was made anew, or this is another cluster. Correct kafka.bootstrap_servers, or "
                "begin anew: set the directory aside, or replay the topic with `lifeline replay --into DIR --swap`"
            )
