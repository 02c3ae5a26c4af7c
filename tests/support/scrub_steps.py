"""Interrupts a scrub at a numbered step: with a function, or by the death of the process."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from rocksdict import Rdict

from lifeline.store import erasure
from lifeline.store.partition import PartitionStore
from tests.support.erasure import LONG, SHAPE, SHORT, fill
from tests.support.factories import open_store


class ScrubSteps:
    """Calls `action` before step `stop` of a scrub; a step is a write, a flush, a compaction or a wait."""

    def __init__(self, stop: int, action: Callable[[], None]) -> None:
        self.stop, self.action, self.count = stop, action, 0

    def step(self) -> None:
        if threading.current_thread().name.startswith("scrub-"):
            if self.count == self.stop:
                self.action()
            self.count += 1

    def wrap(self, function: Callable[..., object]) -> Callable[..., object]:
        """Return a function that counts as a step."""

        def call(*arguments: object) -> object:
            self.step()
            return function(*arguments)

        return call

    @staticmethod
    def functions() -> Iterator[tuple[object, str]]:
        """Yield the functions of a scrub that are steps, as owner and name."""
        yield erasure, "compact_range"
        yield erasure, "_overwrite_logs"
        for name in ("_flush", "_wait_until_gone", "_pending"):
            yield erasure.Scrubber, name

    def wrap_writes(self, store: PartitionStore) -> None:
        store._scrubber._meta = cast("Rdict", SteppedFamily(store._scrubber._meta, self))


class SteppedFamily:
    """A column family whose writes count as steps."""

    def __init__(self, family: Rdict, steps: ScrubSteps) -> None:
        self._family, self._steps = family, steps

    def put(self, key: bytes, value: bytes) -> None:
        self._steps.step()
        self._family.put(key, value)

    def delete(self, key: bytes) -> None:
        self._steps.step()
        self._family.delete(key)

    def __getattr__(self, name: str) -> object:
        return getattr(self._family, name)


def die_at(path: Path, stop: int) -> None:
    """Fill a store, erase two users, and die by SIGKILL before a step of the scrub; return if it has fewer steps."""
    steps = ScrubSteps(stop, lambda: os.kill(os.getpid(), signal.SIGKILL))
    for owner, name in steps.functions():
        setattr(owner, name, steps.wrap(getattr(owner, name)))
    store = open_store(path, SHAPE)
    steps.wrap_writes(store)
    fill(store, 0, 4, LONG, SHORT)
    for family in store.database.families.values():
        family.flush()
    store.erase(SHORT, offset=5)
    fill(store, 6, 2, LONG)
    store.erase(LONG, offset=9)
    store.wait_scrubbed(60)
