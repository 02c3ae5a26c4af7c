"""Live peers: the whole framework on a real topic, keeping each user's list of events in its own state.

`python -m benchmarks.peers.live NAME BOOTSTRAP TOPIC DIRECTORY SEEDS SECONDS` runs one of `quix_streams` and
`faust_table` in the peers' environment and writes events/s to
DIRECTORY/figure.json. The topic starts with one record a user that holds the user's first
events, EVENT[n] packed, which become the list at once; each record behind them is one
event, 18 bytes, which spares the peers the decoding. The clock runs from when all `SEEDS` lists stand, for
`SECONDS`. Both frameworks have their defaults, but that Quix Streams keeps no changelog topic (its checkpoints
would be slower with it); Faust cannot do without.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faust
import numpy as np
from quixstreams import Application, State

from benchmarks.peers import FIGURE_FILE
from benchmarks.peers.peer import CAP, EVENT, PACKED

Lists = list[list[int]]


class Clock:
    """Counts appends, from when the last list stands until the time is over; then writes the rate and ends all."""

    def __init__(self, seeds: int, seconds: float, figure: Path) -> None:
        self._seeds, self._seconds, self._figure = seeds, seconds, figure
        self._started = 0.0
        self._appended = 0

    def seeded(self) -> None:
        """One more list stands."""
        self._seeds -= 1
        if self._seeds == 0:
            self._started = time.perf_counter()

    def appended(self) -> None:
        """One more event is in a list."""
        if not self._started:
            return
        self._appended += 1
        took = time.perf_counter() - self._started
        if took >= self._seconds:
            self._figure.write_text(json.dumps({"per_s": self._appended / took}))
            # The frameworks' own stops take long, and nothing of theirs is needed any more.
            os._exit(0)


def _step(value: bytes, get: Callable[[], Lists], put: Callable[[Lists], None], clock: Clock) -> None:
    if len(value) != PACKED.size:
        put(np.frombuffer(value, EVENT).tolist())
        clock.seeded()
        return
    events = get()
    events.append(list(PACKED.unpack(value)))
    put(events[-CAP:])
    clock.appended()


def quix_streams(servers: str, topic: str, place: Path, clock: Clock) -> None:
    """Run a stateful dataframe."""
    app = Application(
        broker_address=servers,
        consumer_group=f"quix-{topic}",
        auto_offset_reset="earliest",
        state_dir=place,
        use_changelog_topics=False,
        loglevel="ERROR",
    )

    def append(value: bytes, state: State) -> None:
        _step(value, lambda: state.get("events", []), lambda events: state.set("events", events), clock)

    app.dataframe(app.topic(topic, value_deserializer="bytes")).update(append, stateful=True)
    app.run()


def faust_table(servers: str, topic: str, place: Path, clock: Clock) -> None:
    """Run an agent over a table on RocksDB."""
    app = faust.App(
        f"faust-{topic}",
        broker=f"kafka://{servers}",
        store="rocksdb://",
        datadir=str(place),
        web_enabled=False,
        topic_disable_leader=True,
    )
    partitions = int(os.environ["PEER_PARTITIONS"])
    table = app.Table("histories", default=list, partitions=partitions, options={"driver": "rocksdict"})
    source = app.topic(topic, key_type=str, value_type=bytes, value_serializer="raw")

    @app.agent(source)  # type: ignore[untyped-decorator, unused-ignore]
    async def append(stream: faust.StreamT[bytes]) -> None:
        async for user, value in stream.items():
            _step(value, partial(table.__getitem__, user), partial(table.__setitem__, user), clock)

    faust.Worker(app, loglevel="ERROR").execute_from_commandline()


if __name__ == "__main__":
    name, servers, topic, directory, seeds, seconds = sys.argv[1:]
    run = {"quix_streams": quix_streams, "faust_table": faust_table}[name]
    place = Path(directory)
    run(servers, topic, place / "state", Clock(int(seeds), float(seconds), place / FIGURE_FILE))
