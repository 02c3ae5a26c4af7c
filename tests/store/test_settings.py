from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from lifeline.core.actions import Kind
from lifeline.store.head import MAX_SEGMENTS, Head
from lifeline.store.keys import sequence_prefix
from lifeline.store.settings import StoreSettings
from tests.support.factories import TINY_MEMORY, Event, Model, batch_of, open_store
from tests.support.layout import check_layout

PREFIX = sequence_prefix(b"u", Kind.EXPLICIT)


def test_the_defaults_are_the_ones_on_paper() -> None:
    settings = StoreSettings()
    assert settings.cap(Kind.EXPLICIT) == 16_384
    assert settings.cap(Kind.IMPRESSION) == 1_024
    assert [settings.max_age_hours(kind) for kind in Kind] == [None, None]
    assert settings.durability == "process"


def test_ages_are_days_and_each_kind_has_its_own() -> None:
    settings = StoreSettings(max_explicit_age_days=365, max_impression_age_days=1)
    assert [settings.max_age_hours(kind) for kind in Kind] == [8_760, 24]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("max_explicit", 0),
        ("max_impressions", (1 << 20) + 1),
        ("chunk_events", 1),
        ("chunk_events", 2_049),
        ("keep_unsealed", 0),
        ("keep_unsealed", 2_049),
        ("inline_events", 0),
        ("inline_events", 256),
        ("block_cache_mib", 0),
        ("write_buffer_mib", 0),
        ("head_cache_mib", 0),
        ("run_segments", 1),
        ("run_segments", 65),
        ("max_explicit_age_days", 0),
        ("max_impression_age_days", 100_001),
        ("max_wal_mib", 0),
        ("sync_every_ms", 0),
        ("durability", "none"),
        ("chunks", 1),
    ],
)
def test_what_the_formats_cannot_hold_is_refused(name: str, bad: object) -> None:
    with pytest.raises(ValidationError, match=name):
        StoreSettings.model_validate({name: bad})


@pytest.mark.parametrize("run_segments", [2, 64])
@pytest.mark.parametrize("keep_unsealed", [1, 2_048])
@pytest.mark.parametrize(("chunk_events", "inline_events"), [(2, 1), (2_048, 255)])
def test_the_extremes_that_are_allowed_work(
    tmp_path: Path, chunk_events: int, keep_unsealed: int, inline_events: int, run_segments: int
) -> None:
    settings = StoreSettings(
        chunk_events=chunk_events,
        keep_unsealed=keep_unsealed,
        inline_events=inline_events,
        run_segments=run_segments,
        **TINY_MEMORY,
    )
    model, store = Model(settings), open_store(tmp_path, settings)
    # Even moments first: they are sealed. Then odd ones, which fill the oldest chunks until these split.
    moments = np.arange(3 * (chunk_events + keep_unsealed)) * 2
    for offset, times in enumerate([moments, moments[: 2 * chunk_events - 1] + 1, moments[: 2 * chunk_events] + 1]):
        events = [Event(b"u", int(at), 5, 256) for at in times]
        model.apply(events)
        store.apply(batch_of(events), offset=offset)
        model.check(store)
    check_layout(store, settings)
    store.close()


def test_more_segments_than_a_head_can_number_are_merged(tmp_path: Path) -> None:
    # One event inline, two raw segments a run: 255 runs are there long before 4,096 unsealed events.
    settings = StoreSettings(chunk_events=2_048, keep_unsealed=2_048, inline_events=1, run_segments=2, **TINY_MEMORY)
    model, store = Model(settings), open_store(tmp_path, settings)
    events = [Event(b"u", 5 * number % 4_091, 5, 256) for number in range(4_091)]
    peak = 0
    for at in range(0, len(events), 2):
        store.apply(batch_of(events[at : at + 2]), offset=at)
        peak = max(peak, Head.unpack(store._heads._records[PREFIX], store.items).segments)
    assert peak == MAX_SEGMENTS - 1
    model.apply(events)
    model.check(store)
    check_layout(store, settings)
    store.close()
