"""Fingerprints on disk: kept, recounted, and of two directories."""

from pathlib import Path

import pytest

from lifeline.config import Settings
from lifeline.core.paths import partition_dir
from lifeline.ops.fingerprints import Likeness, PartitionPair, StoredFingerprint, pair_partitions, stored_fingerprints
from lifeline.store.recount import Recount
from lifeline.store.retention import RetentionPolicy
from lifeline.store.state import State
from tests.support.disk import damage, rewrite
from tests.support.inspected import ANN, SHAPE, filled

POLICY = RetentionPolicy.of(SHAPE)


def stored(partition: int = 0, *, offset: int = 5, fingerprint: int = 7, why: str = "") -> StoredFingerprint:
    return StoredFingerprint(partition, State(offset, 3, 2, fingerprint), POLICY, why=why)


@pytest.mark.parametrize(
    ("here", "there", "likeness"),
    [
        (stored(), stored(), Likeness.EQUAL),
        (stored(), stored(fingerprint=8), Likeness.DIFFERENT),
        (stored(), stored(offset=6, fingerprint=8), Likeness.OTHER_OFFSET),
        (stored(), None, Likeness.ONLY_HERE),
        (None, stored(), Likeness.ONLY_THERE),
        (stored(), stored(why="broken"), Likeness.UNREADABLE),
    ],
)
def test_only_equal_offsets_say_anything(
    here: StoredFingerprint | None, there: StoredFingerprint | None, likeness: Likeness
) -> None:
    pair = PartitionPair(0, here, there)
    assert pair.likeness is likeness
    assert bool(pair.note) == (likeness is Likeness.DIFFERENT)


def test_other_caps_are_named_as_the_cause() -> None:
    other = stored(fingerprint=8)._replace(policy=POLICY._replace(max_explicit=1))
    assert "different caps or ages" in PartitionPair(0, stored(), other).note
    assert "lifeline verify" in PartitionPair(0, stored(), stored(fingerprint=8)).note


def test_partitions_are_brought_together() -> None:
    found = pair_partitions([stored(2), stored(0)], [stored(2), stored(7)])
    assert [(pair.partition, pair.likeness) for pair in found] == [
        (0, Likeness.ONLY_HERE),
        (2, Likeness.EQUAL),
        (7, Likeness.ONLY_THERE),
    ]


def test_a_recount_finds_what_is_stored(tmp_path: Path) -> None:
    model = filled(partition_dir(tmp_path, 0))
    (kept,) = stored_fingerprints(Settings(), tmp_path, [0], recounted=False)
    assert (kept.state.events, kept.state.fingerprint, kept.recounted) == (model.events, model.fingerprint, None)
    assert kept.policy == POLICY
    (counted,) = stored_fingerprints(Settings(), tmp_path, [0], recounted=True)
    assert counted.recounted == Recount(model.events, model.fingerprint)
    assert (counted.differs, counted.problem) == (False, "")
    rewrite(partition_dir(tmp_path, 0), "rows", b"cy\xff\x00", None)
    (lost,) = stored_fingerprints(Settings(), tmp_path, [0], recounted=True)
    assert lost.differs
    assert "add up to" in lost.problem
    assert lost.as_json()["differs"] is True


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    filled(partition_dir(tmp_path, 0))
    damage(partition_dir(tmp_path, 0), "chunks", ANN, 45, 0xAA)
    (broken,) = stored_fingerprints(Settings(), tmp_path, [0], recounted=True)
    assert "checksum" in broken.why == broken.problem
    assert broken.state.events
    assert stored_fingerprints(Settings(), tmp_path, [0], recounted=False)[0].why == ""
    (missing,) = stored_fingerprints(Settings(), tmp_path, [4], recounted=False)
    assert "holds no store" in missing.why
    assert missing.policy is None
