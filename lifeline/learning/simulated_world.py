"""A simulated world on disk: a history for `lifeline produce` and for the demo, and requests with known answers.

    simulation.json   the settings that made it
    vocabulary.json   the names of its action types and surfaces
    actions.parquet   what the users did, user after user: user_id, item_id, timestamp_ms, action_type, surface
    items.npz         item_id uint64[m], embedding int8[m, 32]
    requests.npz      user uint32[r], timestamp_ms int64[r], surface uint8[r], is_test bool[r], item_id uint64[r, c],
                      done bool[r, c, k], oracle float32[r, c, k], kinds: what a user may do, k texts

The same settings give the same bytes: no file contains the time of its creation.
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lifeline.core.errors import DataDirError
from lifeline.scorer.evaluate.simulator import KINDS, SimulatedUser, Simulator, SimulatorSettings
from lifeline.sources.history import TABLE_FILE, TABLE_ITEMS_FILE, VOCABULARY_FILE

SETTINGS_FILE = "simulation.json"
REQUESTS_FILE = "requests.npz"
_USERS_A_GROUP = 50


class WorldSize(NamedTuple):
    """The number of each thing that was written."""

    users: int
    actions: int
    items: int
    requests: int


def write_world(simulator: Simulator, directory: Path, progress: Callable[[int], None] = lambda _: None) -> WorldSize:
    """Write a world into an empty directory; `progress` gets the number of users so far.

    Raises DataDirError if the directory is not empty.
    """
    import pyarrow as pa  # noqa: PLC0415 - a bare install has no pyarrow
    from pyarrow import parquet  # noqa: PLC0415

    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise DataDirError(f"{directory} is not empty: name a new directory")
    settings, items = simulator.settings, simulator.items
    _write_arrays(directory / TABLE_ITEMS_FILE, {"item_id": items.item_id, "embedding": items.embedding})
    columns: Any = [
        ("user_id", pa.string()),
        ("item_id", pa.uint64()),
        ("timestamp_ms", pa.int64()),
        ("action_type", pa.uint8()),
        ("surface", pa.uint8()),
    ]
    schema = pa.schema(columns)
    requests: list[dict[str, NDArray[Any]]] = []
    actions = 0
    group: list[SimulatedUser] = []
    with parquet.ParquetWriter(directory / TABLE_FILE, schema, compression="zstd") as file:
        for number, user in enumerate(simulator.users(), start=1):
            group.append(user)
            requests.append(_requests(number - 1, user, simulator))
            actions += len(user.events.item)
            if len(group) == _USERS_A_GROUP or number == settings.users:
                file.write_table(_table(pa, schema, group, simulator))
                group.clear()
                progress(number)
    joined = {name: np.concatenate([arrays[name] for arrays in requests]) for name in requests[0]}
    _write_arrays(directory / REQUESTS_FILE, {**joined, "kinds": np.array(KINDS)})
    (directory / VOCABULARY_FILE).write_text(simulator.vocabulary.model_dump_json(indent=2) + "\n")
    # Written last: without it the directory is incomplete.
    (directory / SETTINGS_FILE).write_text(settings.model_dump_json(indent=2) + "\n")
    return WorldSize(settings.users, actions, len(items.item_id), len(joined["timestamp_ms"]))


def read_settings(directory: Path) -> SimulatorSettings:
    """Return the settings that made a directory; raises DataDirError when no world is there."""
    path = directory / SETTINGS_FILE
    try:
        return SimulatorSettings.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise DataDirError(f"{path} cannot be read ({error}): make it with `lifeline simulate {directory}`") from error


def _table(pa: Any, schema: Any, group: list[SimulatedUser], simulator: Simulator) -> Any:  # noqa: ANN401 - pyarrow's
    lengths = [len(user.events.item) for user in group]
    users = np.repeat(np.array([user.user_id for user in group]), lengths)
    item = np.concatenate([user.events.item for user in group])
    columns = [
        pa.array(users),
        pa.array(simulator.items.item_id[item]),
        *(pa.array(np.concatenate([user.events[at] for user in group])) for at in (0, 2, 3)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _requests(number: int, user: SimulatedUser, simulator: Simulator) -> dict[str, NDArray[Any]]:
    asked = user.requests
    return {
        "user": np.full(len(asked.timestamp_ms), number, np.uint32),
        "timestamp_ms": asked.timestamp_ms,
        "surface": asked.surface,
        "is_test": asked.is_test,
        "item_id": simulator.items.item_id[asked.item],
        "done": asked.done,
        "oracle": asked.oracle.astype(np.float32),
    }


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz that depends on the arrays alone: NumPy's own contains the time of day."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
