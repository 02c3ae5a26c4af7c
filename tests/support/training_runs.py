"""Trainings by the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner, Result

from lifeline.cli import app
from lifeline.core.actions import Kind
from lifeline.core.paths import items_dir, partition_dir
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.settings import StoreSettings
from tests.support.factories import Event, batch_of, open_store
from tests.support.scorer_factories import DAY, population, rows_of, vectors_of

LATE = 350 * DAY


def build(data: Path, *, planted: bool) -> Path:
    """Store a population; with `planted` every user does something else from LATE on."""
    histories = population(0)
    events = [
        Event(f"user{user}".encode(), at, (item + 7) % 80 if planted and at >= LATE else item, act << 8 | surface, kind)
        for user, sequences in enumerate(histories)
        for kind in Kind
        for at, item, act, surface in rows_of(sequences[kind])
    ]
    store = open_store(partition_dir(data, 0), StoreSettings(), partition=0)
    store.apply(batch_of(events), offset=0)
    store.close()
    vectors = vectors_of(histories)
    table = EmbeddingTable.open(items_dir(data))
    items = np.array(list(vectors), np.uint64)
    table.apply(items, np.stack(list(vectors.values())), np.ones(len(items), np.uint32), partition=0, offset=0)
    table.sync()
    table.close()
    return data


def arguments(data: Path, models: Path, *more: object) -> tuple[list[str], dict[str, str]]:
    steps = [] if "--steps" in more or "--seconds" in more else ["--steps", "3"]
    environment = {"LIFELINE_SCORER__MODELS_DIR": str(models)}
    return ["train", "--data-dir", str(data), "--json", *steps, *map(str, more)], environment


def run(data: Path, models: Path, *more: object) -> Result:
    command, environment = arguments(data, models, *more)
    return CliRunner().invoke(app, command, env=environment)


def manifest(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found
