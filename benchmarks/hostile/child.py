"""A part of the benchmark in a process of its own, so that no part waits for another's interpreter lock."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from benchmarks.hostile.target import Target

ATTACKER_NICE: Final = 10
_START_S: Final = 120.0
_CONTEXT: Final = multiprocessing.get_context("spawn")

Result = TypeVar("Result")


class Control:
    """What a child knows of its parent's wishes."""

    def __init__(self, connection: "Connection[object, object]", over: Event) -> None:
        self._connection, self._over = connection, over

    def begin(self) -> None:
        """Say that all is prepared, and return once the parent says so too."""
        self._connection.send(None)
        self._connection.recv()

    @property
    def over(self) -> bool:
        """Whether to end."""
        return self._over.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the end, or for as long as is given; return whether the end has come."""
        return self._over.wait(seconds)


Work = Callable[[Target, Control], Result]
"""It prepares itself, calls `Control.begin`, and returns soon after `Control.over`."""


class ChildError(RuntimeError):
    """A child failed; the message is its traceback."""


class Child(Generic[Result]):
    """One process that does one piece of work. A context manager that ends it."""

    def __init__(self, work: Work[Result], target: Target, *, nice: int = 0) -> None:
        """Start it, and return once it is prepared. Raises ChildError."""
        self._connection, theirs = _CONTEXT.Pipe()
        self._over = _CONTEXT.Event()
        self._process = _CONTEXT.Process(target=_run, args=(work, target, nice, theirs, self._over), daemon=True)
        self._process.start()
        theirs.close()
        self._receive(_START_S)

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self._process.pid or 0)

    def begin(self) -> None:
        """Let it begin."""
        self._connection.send(None)

    def end(self, timeout_s: float) -> Result:
        """Have it end, and return what it gives. Raises ChildError."""
        self._over.set()
        result: Result = self._receive(timeout_s)
        self._process.join(timeout_s)
        return result

    def _receive(self, timeout_s: float) -> Result:
        if not self._connection.poll(timeout_s):
            raise ChildError(f"a part of the benchmark gave nothing within {timeout_s:.0f} s: try a quieter machine")
        try:
            given = self._connection.recv()
        except EOFError:
            raise ChildError("a part of the benchmark was killed: look for what did it, and run again") from None
        if isinstance(given, _Failure):
            raise ChildError(given.trace)
        result: Result = given
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


class _Failure:
    def __init__(self, trace: str) -> None:
        self.trace = trace


def _run(work: Work[Result], target: Target, nice: int, connection: "Connection[object, object]", over: Event) -> None:
    os.nice(nice)
    try:
        connection.send(work(target, Control(connection, over)))
    except Exception:  # noqa: BLE001 - the parent raises it
        connection.send(_Failure(traceback.format_exc()))
