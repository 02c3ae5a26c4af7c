"""A peer of replay: Quix Streams rebuilds a lost state from its changelog topic.

`python -m benchmarks.peers.recovery BOOTSTRAP TOPIC DIRECTORY SEEDS APPENDS` runs in the peers' environment, over the
topic of `benchmarks.peers.live`: it takes so many lists and appends, with the framework's defaults, loses its state
directory, and starts again. What the start takes longer than one with its state in place is the recovery; it writes
the seconds to DIRECTORY/figure.json.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from quixstreams import Application, State

from benchmarks.peers import FIGURE_FILE
from benchmarks.peers.peer import CAP, EVENT, PACKED


def run_until(servers: str, topic: str, directory: Path, records: int) -> float:
    """Process so many records; return the seconds from the start to the first of them."""
    app = Application(
        broker_address=servers,
        consumer_group=f"quix-recovery-{topic}",
        auto_offset_reset="earliest",
        state_dir=directory,
        loglevel="ERROR",
    )
    first: list[float] = []

    def append(value: bytes, state: State) -> None:
        first.append(time.perf_counter())
        if len(value) != PACKED.size:
            state.set("events", np.frombuffer(value, EVENT).tolist())
            return
        events = state.get("events", [])
        events.append(list(PACKED.unpack(value)))
        state.set("events", events[-CAP:])

    app.dataframe(app.topic(topic, value_deserializer="bytes")).update(append, stateful=True)
    started = time.perf_counter()
    app.run(count=records)
    return first[0] - started


if __name__ == "__main__":
    servers, topic, directory, seeds, appends = sys.argv[1:]
    state = Path(directory) / "state"
    run_until(servers, topic, state, int(seeds) + int(appends))
    in_place = run_until(servers, topic, state, 1)
    shutil.rmtree(state)
    lost = run_until(servers, topic, state, 1)
    (Path(directory) / FIGURE_FILE).write_text(json.dumps({"seconds": lost - in_place}))
