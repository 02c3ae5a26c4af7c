"""Counts of what was applied to a partition."""

from collections import Counter
from dataclasses import dataclass, field

from lifeline.stream.decode import DeadLetterReason, DecodedBatch, Erasure


@dataclass(slots=True)
class AppliedCounts:
    """Counts of what was applied since the partition was first assigned."""

    records: int = 0
    events: int = 0
    erasures: int = 0
    batches: int = 0
    dead_letters: Counter[DeadLetterReason] = field(default_factory=Counter)

    def add(self, records: int, decoded: DecodedBatch) -> int:
        """Count a batch, and return the number of its erasures."""
        erasures = sum(isinstance(step, Erasure) for step in decoded.steps)
        self.batches += 1
        self.records += records
        self.events += decoded.actions
        self.erasures += erasures
        self.dead_letters.update(letter.reason for letter in decoded.dead_letters)
        return erasures
