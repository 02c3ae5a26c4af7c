"""Expiry by age, relative to the watermark: the horizon of each kind, and the expiry keys of sequences.

The expiry key of a sequence starts with an hour at or before the hour of its oldest event, so the sequences that are
due are one key range.
"""

import numpy as np

from lifeline.core.actions import ActionBatch, Kind
from lifeline.store import keys
from lifeline.store.sequence_editor import SequenceEditor
from lifeline.store.settings import StoreSettings


class AgeLimits:
    """The maximum age in hours of each kind that has one."""

    def __init__(self, settings: StoreSettings) -> None:
        self.hours: dict[int, int] = {
            kind: hours for kind in Kind if (hours := settings.max_age_hours(kind)) is not None
        }
        self.has_limit = np.array([kind in self.hours for kind in Kind])
        """bool[kinds]."""

    def horizons(self, watermark_ms: int) -> dict[int, int]:
        """Return the horizon in ms of each kind with a limit: earlier events are expired.

        It is a function of the watermark's hour, so copies agree on it, and it changes once an hour at most.
        """
        hour = keys.hour_of(watermark_ms)
        return {kind: (hour - age) * keys.HOUR_MS for kind, age in self.hours.items() if hour > age}

    def update_key(self, editor: SequenceEditor, meta: dict[bytes, bytes | None]) -> None:
        """Keep the sequence's expiry key at or before the hour of its oldest event; adds the changes to `meta`."""
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
    is_expired = np.zeros(len(batch), np.bool_)
    for kind, horizon in horizons.items():
        is_expired |= (batch.kind == kind) & (batch.timestamp_ms < horizon)
    if not is_expired.any():
        return batch
    keep = np.flatnonzero(~is_expired)
    return ActionBatch(
        [batch.user_ids[row] for row in keep.tolist()],
        batch.timestamp_ms[keep],
        batch.item_id[keep],
        batch.code[keep],
        batch.kind[keep],
        batch.logged_ms[keep],
    )
