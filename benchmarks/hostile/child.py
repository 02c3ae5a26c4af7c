"""A part of the benchmark in its own process, so that the parts do not share a GIL."""

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
    """The child's side of the signals from its parent."""

    def __init__(self, connection: "Connection[object, object]", over: Event) -> None:
        self._connection, self._over = connection, over

    def begin(self) -> None:
        """Report that the child is prepared, and wait for the parent's signal to begin."""
        self._connection.send(None)
        self._connection.recv()

    @property
    def is_over(self) -> bool:
        """Whether the parent has asked the child to end."""
        return self._over.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, at most `seconds`; return whether it has come."""
        return self._over.wait(seconds)


Work = Callable[[Target, Control], Result]
"""A function that prepares itself, calls `Control.begin`, and returns soon after `Control.is_over` is true."""


class ChildError(RuntimeError):
    """A child failed; the message is its traceback."""


class Child(Generic[Result]):
    """A process that runs one function; the context manager kills it."""

    def __init__(self, work: Work[Result], target: Target, *, nice: int = 0) -> None:
        """Start the process, and wait until it is prepared. Raises ChildError."""
        self._connection, child_end = _CONTEXT.Pipe()
        self._over = _CONTEXT.Event()
        self._process = _CONTEXT.Process(target=_run, args=(work, target, nice, child_end, self._over), daemon=True)
        self._process.start()
        child_end.close()
        self._receive(_START_S)

    @property
    def pid(self) -> int:
        """The process id."""
        return int(self._process.pid or 0)

    def begin(self) -> None:
        """Signal the child to begin."""
        self._connection.send(None)

    def end(self, timeout_s: float) -> Result:
        """Ask the child to end, and return its result. Raises ChildError."""
        self._over.set()
        result: Result = self._receive(timeout_s)
        self._process.join(timeout_s)
        return result

    def _receive(self, timeout_s: float) -> Result:
        if not self._connection.poll(timeout_s):
            raise ChildError(f"a part of the benchmark did not answer within {timeout_s:.0f} s: try a quieter machine")
        try:
            received = self._connection.recv()
        except EOFError:
            raise ChildError("a part of the benchmark was killed: find out by what, and run again") from None
        if isinstance(received, _Failure):
            raise ChildError(received.trace)
        result: Result = received
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
