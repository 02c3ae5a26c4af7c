"""Runs a node as a child process, for the demo, the tests and the benchmarks."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lifeline.config import PREFIX, Settings, load_settings
from lifeline.core.errors import NodeProcessError
from lifeline.core.vocabulary import Vocabulary
from lifeline.core.watchdog import Watchdog
from lifeline.dev.broker import free_port

_LAST_LINES = 30
Event = Mapping[str, Any]


def settings_for(
    bootstrap_servers: str,
    workdir: Path,
    vocabulary: Vocabulary,
    *,
    suffix: str = "",
    flags: Mapping[str, object] | None = None,
) -> Settings:
    """Return the settings of a node with its state and models in `workdir`, and with free ports.

    `suffix` is appended to the names of topics and group, so that several nodes can share a cluster. `flags` are more
    settings, by dotted key. Raises ConfigError.
    """
    values = {
        "kafka.bootstrap_servers": bootstrap_servers,
        "kafka.actions_topic": f"actions{suffix}",
        "kafka.items_topic": f"items{suffix}",
        "kafka.group_id": f"lifeline{suffix}",
        "node.data_dir": str(workdir / "data"),
        "node.grpc_address": f"127.0.0.1:{free_port()}",
        "node.http_address": f"127.0.0.1:{free_port()}",
        # No load balancer sends calls to it, so there is no reason to wait before a stop.
        "node.drain_s": 0,
        "scorer.models_dir": str(workdir / "models"),
    }
    settings = load_settings(None, values | dict(flags or {})).settings
    # Replace the configured vocabulary: the two may contradict each other, so they cannot be merged.
    return settings.model_copy(update={"vocabulary": vocabulary})


def write_settings(path: Path, settings: Settings) -> None:
    """Write every setting that is not None as TOML; JSON's scalars and arrays are valid TOML."""
    lines: list[str] = []
    _write_table(settings.model_dump(mode="json", exclude_none=True), "", lines)
    path.write_text("\n".join(lines) + "\n")


def _write_table(values: Mapping[str, Any], name: str, lines: list[str]) -> None:
    if name:
        lines.append(f"\n[{name}]")
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines += [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in values.items() if key not in tables]
    for key, value in tables.items():
        _write_table(value, f"{name}.{json.dumps(key)}" if name else json.dumps(key), lines)


class NodeProcess:
    """A `lifeline node` as a child process. Its log of JSON lines goes to a file, and `next_event` returns them."""

    def __init__(self, settings: Settings, workdir: Path) -> None:
        """Write the settings into `workdir`; `start` starts the process."""
        node = settings.node.model_copy(update={"log_format": "json"})
        self.settings = settings.model_copy(update={"node": node})
        self.config = workdir / "lifeline.toml"
        self.log = workdir / "node.log"
        write_settings(self.config, self.settings)
        self._process: subprocess.Popen[str] | None = None
        self._events: queue.Queue[Event] = queue.Queue()
        self._tail: deque[str] = deque(maxlen=_LAST_LINES)
        self._reader: threading.Thread | None = None
        self._watchdog: Watchdog | None = None

    @property
    def address(self) -> str:
        """The node's gRPC address."""
        return self.settings.node.grpc_address

    @property
    def pid(self) -> int:
        """The process id; raises NodeProcessError if the process has not been started."""
        return self._running().pid

    def start(self) -> None:
        """Start the process and return at once."""
        self._events = queue.Queue()
        self._process = subprocess.Popen(  # noqa: S603 - no untrusted input
            [sys.executable, "-m", "lifeline", "node", "--config", str(self.config)],
            # The file has every setting; LIFELINE_* variables would override them.
            env={name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C reaches only the parent, which stops the node.
            start_new_session=True,
        )
        self._watchdog = Watchdog(self._process.pid)
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def wait_ready(self, timeout_s: float, follow: Callable[[Event], None] = lambda _: None) -> float:
        """Wait until the node logs that it is ready, and return the seconds; `follow` gets each log event.

        Raises NodeProcessError when the node ends first, or after `timeout_s` seconds.
        """
        started = time.monotonic()
        while (remaining_s := started + timeout_s - time.monotonic()) > 0:
            event = self.next_event(min(remaining_s, 0.2))
            if event is not None:
                follow(event)
                if event.get("event") == "ready":
                    return time.monotonic() - started
        raise NodeProcessError(self._with_log_tail(f"the node was not ready within {timeout_s:.0f} s"))

    def next_event(self, timeout_s: float) -> Event | None:
        """Return the next log event, None after `timeout_s`; raises NodeProcessError if the node has ended."""
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            code = self._running().poll()
            if code is not None and self._events.empty():
                self._join()
                raise NodeProcessError(self._with_log_tail(f"the node ended with {code}")) from None
            return None

    def stop(self, timeout_s: float = 60.0) -> int:
        """Stop the node with SIGTERM and return its exit code; after `timeout_s` kill it and raise NodeProcessError."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NodeProcessError(self._with_log_tail(f"the node did not stop within {timeout_s:.0f} s")) from None
        self._join()
        return code

    def kill(self) -> None:
        """Kill the node with SIGKILL, like a crash. Idempotent."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        if self._process is not None:
            self._process.wait()
            self._join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None:
            raise NodeProcessError("the node has not been started: call start() first")
        return self._process

    def _join(self) -> None:
        """Read the last lines of the log after the process has ended."""
        if self._watchdog is not None:
            self._watchdog.release()
        if self._reader is not None:
            self._reader.join(5)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        if process.stderr is None:
            return
        with process.stderr, self.log.open("a") as log:
            for line in process.stderr:
                log.write(line)
                log.flush()
                self._tail.append(line.rstrip())
                try:
                    self._events.put(json.loads(line))
                except ValueError:
                    self._events.put({"event": "text", "text": line.rstrip()})

    def _with_log_tail(self, message: str) -> str:
        return f"{message}; the end of {self.log}:\n" + "\n".join(self._tail)
