"""Expiry by age, measured by the watermark: which events are too old, and where a sequence's expiry key stands.

An expiry key names a sequence under an hour at or before the hour of its oldest event, so the sequences that are due
are one range of keys.
"""

import numpy as np

from lifeline.core.actions import ActionBatch, Kind
from lifeline.store import keys
from lifeline.store.sequence_editor import SequenceEditor
from lifeline.store.settings import StoreSettings


class AgeLimits:
    """For how many hours events are kept, for the kinds that have a limit."""

    def __init__(self, settings: StoreSettings) -> None:
        self.hours: dict[int, int] = {
            kind: hours for kind in Kind if (hours := settings.max_age_hours(kind)) is not None
        }
        self.has_limit = np.array([kind in self.hours for kind in Kind])
        """bool[kinds]."""

    def horizons(self, watermark_ms: int) -> dict[int, int]:
        """Return the time before which events of a kind are expired.

        It moves in whole hours of the watermark: so it is a function of the log, and rarely moves.
        """
        hour = keys.hour_of(watermark_ms)
        return {kind: (hour - age) * keys.HOUR_MS for kind, age in self.hours.items() if hour > age}

    def update_key(self, editor: SequenceEditor, meta: dict[bytes, bytes | None]) -> None:
        """Keep the sequence's expiry key at or before the hour of its oldest event; the changes go into `meta`."""
        head = editor.head
        if not head.events or keys.kind_of(editor.prefix) not in self.hours:
            return
        if head.expiry_hour is None:
            hour = keys.hour_of(editor.oldest_timestamp_ms())
        elif editor.earliest_ms is not None and keys.hour_of(editor.earliest_ms) < head.expiry_hour:
            hour = keys.hour_of(editor.earliest_ms)
            meta[keys.expiry_key(editor.prefix, head.expiry_hour)] = None
        else:
            return
        head.expiry_hour = hour
        meta[keys.expiry_key(editor.prefix, hour)] = b""


def drop_expired(batch: ActionBatch, horizons: dict[int, int]) -> ActionBatch:
    """Return the batch without the actions that are before the horizon of their kind."""
    old = np.zeros(len(batch), np.bool_)
    for kind, horizon in horizons.items():
        old |= (batch.kind == kind) & (batch.timestamp_ms < horizon)
    if not old.any():
        return batch
    keep = np.flatnonzero(~old)
    return ActionBatch(
        [batch.user_ids[row] for row in keep.tolist()],
        batch.timestamp_ms[keep],
        batch.item_id[keep],
        batch.code[keep],
        batch.kind[keep],
        batch.logged_ms[keep],
    )
