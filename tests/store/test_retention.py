from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.core.actions import Kind
from lifeline.store import keys
from lifeline.store.errors import CorruptRecordError, FormatVersionError, RetentionPolicyError
from lifeline.store.retention import RetentionPolicy
from lifeline.store.settings import StoreSettings
from lifeline.store.state import State
from tests.support.disk import contents, record, rewrite
from tests.support.factories import ANN, batch_of, open_follower, open_store, tiny

U32 = st.integers(0, (1 << 32) - 1)


@given(st.builds(RetentionPolicy, U32, U32, U32, U32))
def test_round_trip(contract: RetentionPolicy) -> None:
    assert RetentionPolicy.unpack(contract.pack()) == contract


def test_the_layout_is_the_one_on_paper() -> None:
    assert RetentionPolicy(1, 2, 3, 4).pack() == bytes([2, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0])


def test_it_is_what_the_settings_ask_for() -> None:
    contract = RetentionPolicy.of(tiny(max_explicit=9, max_impressions=8, max_impression_age_days=2))
    assert contract == (9, 8, 0, 48)
    assert [(contract.cap(kind), contract.age_hours(kind)) for kind in Kind] == [(9, 0), (8, 48)]
    largest = StoreSettings(max_explicit_age_days=100_000, max_explicit=1 << 20)
    assert RetentionPolicy.unpack(RetentionPolicy.of(largest).pack()) == (1 << 20, 1_024, 2_400_000, 0)


def test_truncations_and_other_versions_are_refused() -> None:
    data = RetentionPolicy(1, 2, 3, 4).pack()
    for size in range(len(data)):
        with pytest.raises(CorruptRecordError):
            RetentionPolicy.unpack(data[:size])
    with pytest.raises(CorruptRecordError):
        RetentionPolicy.unpack(data + b"\0")
    for version in (1, 3):
        with pytest.raises(FormatVersionError, match=f"the partition has format {version}"):
            RetentionPolicy.unpack(bytes([version]) + data[1:])


MADE = tiny(max_explicit=40, max_explicit_age_days=3)


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """The directory of a closed store that was made with MADE."""
    store = open_store(tmp_path / "p", MADE)
    store.apply(batch_of(ANN), offset=5)
    store.close()
    return tmp_path / "p"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_explicit": 41}, "max_explicit is 40 and the settings say 41"),
        ({"max_impressions": 1}, "max_impressions is 7 and the settings say 1"),
        ({"max_explicit_age_days": None}, "explicit_age_hours is 72 and the settings say 0"),
        ({"max_explicit_age_days": 4}, "explicit_age_hours is 72 and the settings say 96"),
        ({"max_impression_age_days": 1}, "impression_age_hours is 0 and the settings say 24"),
        (
            {"max_explicit": 39, "max_impression_age_days": 2},
            "say 39; impression_age_hours is 0 and the settings say 48",
        ),
    ],
)
def test_other_caps_or_ages_do_not_open(closed: Path, changes: dict[str, float | None], says: str) -> None:
    with pytest.raises(RetentionPolicyError, match=says) as caught:
        open_store(closed, MADE.model_copy(update=changes))
    assert "restore them, or set the directory aside" in str(caught.value)
    # A refusal leaves no lock behind, and changes nothing.
    store = open_store(closed, MADE)
    assert store.state.events == 30
    assert store.policy == RetentionPolicy.of(MADE)
    store.close()


def test_other_sizes_and_memory_open(closed: Path) -> None:
    shape = {"chunk_events": 9, "inline_events": 5, "run_segments": 3, "head_cache_mib": 1.5, "durability": "power"}
    store = open_store(closed, MADE.model_copy(update=shape))
    store.apply(batch_of(ANN), offset=6)
    assert store.state.events == 30
    store.close()


def test_a_follower_finds_the_contract_and_asks_for_none(closed: Path) -> None:
    follower = open_follower(closed)
    assert follower.policy == RetentionPolicy.of(MADE)
    follower.close()


def test_a_contract_is_written_before_the_first_batch(tmp_path: Path) -> None:
    open_store(tmp_path, MADE).close()
    assert contents(tmp_path, "meta") == {keys.POLICY_KEY: RetentionPolicy.of(MADE).pack()}
    with pytest.raises(RetentionPolicyError):
        open_store(tmp_path, tiny())


@pytest.mark.parametrize("state", [State(5).pack(), bytes([1]) + State(5).pack()[1:]], ids=["this", "earlier"])
def test_a_state_without_a_contract_is_of_an_earlier_format(closed: Path, state: bytes) -> None:
    rewrite(closed, "meta", keys.POLICY_KEY, None)
    rewrite(closed, "meta", keys.STATE_KEY, state)
    for opening in (lambda: open_store(closed, MADE), lambda: open_follower(closed)):
        with pytest.raises(FormatVersionError, match="set the directory aside") as caught:
            opening()
        assert "the partition has format" in str(caught.value)
    # It stays what it was: the program that wrote it still reads it.
    assert record(closed, "meta", keys.STATE_KEY)[1] == state
    assert keys.POLICY_KEY not in contents(closed, "meta")


def test_a_contract_that_is_cut_off_does_not_open(closed: Path) -> None:
    key, data = record(closed, "meta", keys.POLICY_KEY)
    rewrite(closed, "meta", key, data[:-1])
    with pytest.raises(CorruptRecordError, match="a retention policy of 16 bytes"):
        open_store(closed, MADE)
