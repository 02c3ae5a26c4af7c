"""Item ids that meet in the index."""

from lifeline.store.id_hash import LEVELS, HashSeed

MEETING = HashSeed(0, 1, 1, (1,) * LEVELS)
"""With it small numbers meet in the first slot of every level but level 0."""
