"""Reloads the callers of a running node when the configuration file changes, so that tokens can be rotated.

Only `security.callers` and `security.peer_token` are reloaded. An invalid file is logged as an error, and changes
nothing. A reload cannot remove the last caller, because a node without callers accepts calls from anybody.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import structlog

from lifeline.config import LoadedSettings
from lifeline.core.credentials import file_stamp
from lifeline.core.errors import ConfigError, SecurityError
from lifeline.core.security import SecuritySettings

_LOOK_S = 1.0
_log = structlog.get_logger(__name__)


class _Changes(NamedTuple):
    added: list[str]
    removed: list[str]
    changed: list[str]


class SecurityWatch:
    """Watches the configuration file, and has the present [security] settings."""

    def __init__(self, loaded: LoadedSettings, use: Callable[[SecuritySettings], None] = lambda _: None) -> None:
        """Start with the loaded settings; `use` is called with changed ones, in the event loop."""
        self.current = loaded.settings.security
        self.use = use
        self._loaded, self._reload_requested = loaded, asyncio.Event()
        self._stamp: tuple[int, int, int] | None = None
        self._stamp = self._file_stamp()

    def ask(self) -> None:
        """Reload the file whether it has changed or not; called in the event loop."""
        self._reload_requested.set()

    async def follow(self) -> None:
        """Check the file once a second, until cancelled."""
        while True:
            try:
                # Not asyncio.wait_for: in Python 3.11 it loses a cancellation that arrives with the event.
                async with asyncio.timeout(_LOOK_S):
                    await self._reload_requested.wait()
            except TimeoutError:
                is_requested = False
            else:
                is_requested = True
                self._reload_requested.clear()
            stamp = await asyncio.to_thread(self._file_stamp)
            if is_requested or stamp != self._stamp:
                self._stamp = stamp
                await self._reload()

    async def _reload(self) -> None:
        try:
            new = await asyncio.to_thread(self._read)
        except (ConfigError, SecurityError) as error:
            _log.error("callers not reloaded: the previous ones stay valid", why=str(error))
            return
        changes = _changes(self.current, new)
        self.current = new
        self.use(new)
        _log.info("callers reloaded", callers=len(new.callers), **changes._asdict())

    def _read(self) -> SecuritySettings:
        """Return the present settings with the callers and the peer token of the file.

        Raises ConfigError and SecurityError.
        """
        settings = self._loaded.reload().settings
        new = self.current.model_copy(
            update={"callers": settings.security.callers, "peer_token": settings.security.peer_token}
        )
        if self.current.callers and not new.callers:
            raise SecurityError(
                "the file has no callers any more, which would let anybody call: restart the node to allow this"
            )
        if new.callers and new.open:
            raise SecurityError("callers were added to a node with security.open = true: restart the node")
        new.listening_addresses(self._loaded.settings.node.grpc_address)
        return new

    def _file_stamp(self) -> tuple[int, int, int] | None:
        try:
            return None if self._loaded.file is None else file_stamp(self._loaded.file)
        except SecurityError:
            # The file is being replaced, or was removed: keep the present settings.
            return self._stamp


def _changes(before: SecuritySettings, now: SecuritySettings) -> _Changes:
    old, new = before.callers, now.callers
    return _Changes(
        sorted(new.keys() - old.keys()),
        sorted(old.keys() - new.keys()),
        sorted(name for name in old.keys() & new.keys() if old[name] != new[name]),
    )
