"""Heads of every shape, for tests of what reads and writes them."""

import random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lifeline.core.actions import Identity
from lifeline.store.head import LOWEST, Head, SealedPart
from lifeline.store.segment import pack_events
from tests.support.factories import columns_of

U32 = st.integers(0, (1 << 32) - 1)
IDS = np.array([0, 7, 1 << 63, (1 << 64) - 1], np.uint64)
IDENTITIES = st.builds(
    Identity,
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 16) - 1),
)
ROWS = st.tuples(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, len(IDS) - 1), st.integers(0, (1 << 16) - 1))
SEALED = SealedPart(9, 2, Identity(5, 6, 7), Identity(1, 2, 3))


@st.composite
def heads(draw: st.DrawFn) -> Head:
    """Any head that a sequence may have: its newest event is inline, or it is not."""
    rows = draw(st.lists(ROWS, max_size=40))
    at = draw(st.none() | st.integers(0, len(rows) - 1)) if rows else None
    elsewhere = draw(IDENTITIES) if at is None else None
    segmented: dict[str, Any] = {}
    if draw(st.booleans()):
        segments = draw(st.integers(1, 255))
        events = draw(st.integers(segments, (1 << 32) - 1))
        segmented = {"segments": segments, "runs": draw(st.integers(0, segments)), "in_segments": events}
    return Head(
        newest_ms=rows[at][0] if elsewhere is None and at is not None else (elsewhere or LOWEST)[0],
        newest_at=at,
        newest_identity=elsewhere,
        **segmented,
        sealed=draw(st.none() | st.builds(SealedPart, U32, st.integers(0, (1 << 16) - 1), IDENTITIES, IDENTITIES)),
        expiry_hour=draw(st.none() | U32),
        inline=pack_events(columns_of(rows)),
    )


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return a record with a few other bytes, and sometimes cut off."""
    broken = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        broken[rng.randrange(min(len(broken), rng.choice([4, 80, 1_000])))] = rng.randrange(256)
    return bytes(broken[: rng.choice([None, None, rng.randrange(len(broken))])])
