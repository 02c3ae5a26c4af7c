from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from store.actions import Kind
from store.settings import StoreSettings
from tests.store.made import TINY_MEMORY, Event, Model, batch_of, open_store


def test_the_defaults_are_the_ones_on_paper() -> None:
    settings = StoreSettings()
    assert settings.cap(Kind.EXPLICIT) == 16_384
    assert settings.cap(Kind.IMPRESSION) == 1_024
    assert (settings.chunk_events, settings.inline_events, settings.seal_at) == (512, 32, 1_024)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("max_explicit", 0),
        ("max_impressions", (1 << 20) + 1),
        ("chunk_events", 1),
        ("chunk_events", 2_049),
        ("inline_events", 0),
        ("inline_events", 256),
        ("block_cache_mib", 0),
        ("write_buffer_mib", 0),
        ("head_cache_entries", 0),
        ("chunks", 1),
    ],
)
def test_what_the_formats_cannot_hold_is_refused(name: str, bad: int) -> None:
    with pytest.raises(ValidationError, match=name):
        StoreSettings.model_validate({name: bad})


@pytest.mark.parametrize(("chunk_events", "inline_events"), [(2, 1), (2_048, 255)])
def test_the_extremes_that_are_allowed_work(tmp_path: Path, chunk_events: int, inline_events: int) -> None:
    settings = StoreSettings(chunk_events=chunk_events, inline_events=inline_events, **TINY_MEMORY)
    model, store = Model(settings), open_store(tmp_path, settings)
    # Even moments first: they are sealed. Then odd ones, which fill the oldest chunks until these split.
    moments = np.arange(3 * settings.seal_at) * 2
    for offset, times in enumerate([moments, moments[: 2 * chunk_events - 1] + 1, moments[: 2 * chunk_events] + 1]):
        events = [Event(b"u", int(at), 5, 256) for at in times]
        model.apply(events)
        store.apply(batch_of(events), offset=offset)
        model.check(store)
    store.close()
