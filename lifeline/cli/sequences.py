"""A user's sequence as a table and as JSON."""

import time

from lifeline.cli.formats import duration, utc
from lifeline.cli.output import Table
from lifeline.core.actions import Kind
from lifeline.core.sequence import UserSequences
from lifeline.core.vocabulary import Vocabulary


def sequence_table(user: str, kind: Kind, reply: UserSequences, vocabulary: Vocabulary) -> Table:
    """Return a table of the events of one kind, newest first."""
    sequence, as_of = reply.sequences[kind], reply.as_of
    now_ms = int(time.time() * 1000)
    columns = (sequence.timestamp_ms, sequence.item_id, sequence.action_type, sequence.surface)
    rows = [
        (
            utc(timestamp_ms),
            duration(now_ms - timestamp_ms),
            item_id,
            vocabulary.action_type_names.get(action_type, action_type),
            vocabulary.surface_names.get(surface, surface),
        )
        for timestamp_ms, item_id, action_type, surface in zip(
            *(column.tolist()[::-1] for column in columns if column is not None), strict=True
        )
    ]
    title = (
        f"{user}: newest {sequence.length:,} of {sequence.stored:,} {kind.name.lower()} events "
        f"(partition {as_of.partition}, offset {as_of.applied_offset}"
        f"{f', {as_of.lag_records:,} records behind its log' if as_of.lag_records else ''})"
    )
    return Table(title, ("time (UTC)", "age>", "item>", "action", "surface"), rows)


def sequence_json(user: str, kind: Kind, reply: UserSequences, vocabulary: Vocabulary) -> dict[str, object]:
    """Return the columns of one kind, oldest event first; action types and surfaces by name."""
    sequence = reply.sequences[kind]
    columns = {
        "timestamp_ms": sequence.timestamp_ms,
        "item_id": sequence.item_id,
        "action_type": sequence.action_type,
        "surface": sequence.surface,
        "embedding": sequence.embedding,
    }
    names = {"action_type": vocabulary.action_type_names, "surface": vocabulary.surface_names}
    return {
        "user": user,
        "kind": kind.name.lower(),
        "as_of": reply.as_of._asdict(),
        "stored": sequence.stored,
        "length": sequence.length,
        **{
            name: [names[name].get(value, value) for value in column.tolist()] if name in names else column.tolist()
            for name, column in columns.items()
            if column is not None
        },
    }
