"""Who may call a node, and how calls are kept from others' eyes: TLS, certificates of callers, and tokens.

The settings say two things: what this node asks of its callers (`certificate`, `client_ca`, `callers`), and what this
process shows and trusts when it calls a node (`ca`, `client_certificate`, `token`); nodes call each other, so they have
both. Files are read again when they have changed: by the server at the next handshake, for calls at the next channel.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, cast

import grpc
import grpc.aio
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from lifeline.errors import SecurityError

KEEPALIVE = (("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000))
"""Both sides of a connection ping alike: whoever is gone without a word is found within half a minute."""
AUTHORIZATION = "authorization"
"""The metadata that a token comes in, as ``Bearer TOKEN``."""
_LOOPBACK = ("127.", "localhost:", "[::1]:", "::1:", "unix:")


class Caller(BaseModel):
    """Somebody who may call, known by a token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token_sha256: Annotated[
        str, Field(pattern="^[0-9a-f]{64}$", description="the token's hash: lifeline token makes both")
    ]
    methods: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="methods that may be called, as GetSequence or Score; * for every one"),
    ] = ("*",)
    max_concurrent: Annotated[int | None, Field(ge=1, description="calls at once; none: as many as the node takes")] = (
        None
    )
    max_streams: Annotated[int | None, Field(ge=1, description="streams at once, which reflection has")] = None
    max_message_kib: Annotated[
        int | None, Field(ge=1, description="the largest request; none: node.max_message_mib, as for everybody")
    ] = None


class SecuritySettings(BaseModel):
    """TLS and tokens; without any of it calls are in the clear, and anybody's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate: Annotated[Path | None, Field(description="PEM: this node's certificate, and those up to its CA's")] = (
        None
    )
    private_key: Annotated[Path | None, Field(description="PEM: its key")] = None
    client_ca: Annotated[
        Path | None,
        Field(description="PEM: callers must show a certificate that one of these signed; none: mutual TLS off"),
    ] = None
    callers: Annotated[dict[str, Caller], Field(description="who may call, by name; none: everybody")] = {}
    ca: Annotated[
        Path | None, Field(description="PEM: calls go over TLS, to nodes whose certificate one of these signed")
    ] = None
    client_certificate: Annotated[Path | None, Field(description="PEM: what calls show where callers have to")] = None
    client_key: Annotated[Path | None, Field(description="PEM: its key")] = None
    token: Annotated[SecretStr | None, Field(description="what calls say who they are with")] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for one, other in (("certificate", "private_key"), ("client_certificate", "client_key")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"security.{one} and security.{other} belong together: set both, or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("security.client_ca needs security.certificate: set it, with its key")
        if self.client_certificate is not None and self.ca is None:
            raise ValueError("security.client_certificate needs security.ca: name whom calls trust")
        hashes = [caller.token_sha256 for caller in self.callers.values()]
        if len(set(hashes)) != len(hashes):
            raise ValueError("two of security.callers have one token: give each a token of its own")
        return self

    def check_address(self, address: str) -> None:
        """Raise SecurityError where tokens would cross a network in the clear."""
        if self.callers and self.certificate is None and not address.startswith(_LOOPBACK):
            raise SecurityError(
                f"security.callers would send their tokens to {address} in the clear: set security.certificate and "
                "security.private_key, or listen on 127.0.0.1"
            )


def hash_of(token: str) -> str:
    """Return what a configuration keeps of a token: 64 hexadecimal digits."""
    return hashlib.sha256(token.encode()).hexdigest()


def server_credentials(settings: SecuritySettings) -> grpc.ServerCredentials | None:
    """Return what a server listens with; None for no TLS. Raises SecurityError where a file cannot be used."""
    if settings.certificate is None or settings.private_key is None:
        return None
    files = _Files([path for path in (settings.private_key, settings.certificate, settings.client_ca) if path])

    def configured(contents: Sequence[bytes]) -> Any:  # noqa: ANN401 - the library has no name for it
        key, chain, *client_ca = contents
        return grpc.ssl_server_certificate_configuration(
            [(key, chain)], root_certificates=client_ca[0] if client_ca else None
        )

    def changed() -> Any:  # noqa: ANN401
        try:
            contents = files.read_if_changed()
        except SecurityError:
            # Half a rotation: what is there goes on until the files are whole.
            return None
        return None if contents is None else configured(contents)

    return grpc.dynamic_ssl_server_credentials(
        configured(files.read()), changed, require_client_authentication=settings.client_ca is not None
    )


class CallSecurity(NamedTuple):
    """What calls to a node are made with."""

    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]
    """Of every call."""
    stamp: tuple[object, ...]
    """Another one once the files have changed."""

    @classmethod
    def of(cls, settings: SecuritySettings) -> Self:
        """Read the files as they are now; raises SecurityError where one cannot be used."""
        token = settings.token
        metadata = ((AUTHORIZATION, f"Bearer {token.get_secret_value()}"),) if token else ()
        if settings.ca is None:
            return cls(None, metadata, ())
        files = _files_of_calls(settings)
        ca, *own = files.read()
        key, chain = own or (None, None)
        return cls(grpc.ssl_channel_credentials(ca, key, chain), metadata, files.stamp())

    def channel(self, address: str, options: Sequence[tuple[str, int]]) -> grpc.Channel:
        """Return a channel to a node; calls take the metadata along themselves."""
        options = (*KEEPALIVE, *options)
        if self.credentials is None:
            return grpc.insecure_channel(address, options)
        return grpc.secure_channel(address, self.credentials, options)

    def aio_channel(self, address: str, options: Sequence[tuple[str, int]]) -> grpc.aio.Channel:
        """Return the same for asyncio."""
        options = (*KEEPALIVE, *options)
        if self.credentials is None:
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address, self.credentials, options)


IN_THE_CLEAR = CallSecurity(None, (), ())
"""Calls without TLS and without a token."""


def stamp_of(settings: SecuritySettings) -> tuple[object, ...]:
    """Return what changes when a file that calls are made with does."""
    return _files_of_calls(settings).stamp()


def _files_of_calls(settings: SecuritySettings) -> "_Files":
    return _Files([path for path in (settings.ca, settings.client_key, settings.client_certificate) if path])


class _Files:
    """Files that are read again when one has changed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._read: tuple[object, ...] = ()
        self._lock = threading.Lock()

    def stamp(self) -> tuple[object, ...]:
        return tuple(self._of(path, os.stat) for path in self._paths)

    def read(self) -> list[bytes]:
        self._read = self.stamp()
        return [self._of(path, Path.read_bytes) for path in self._paths]

    def read_if_changed(self) -> list[bytes] | None:
        with self._lock:
            return None if self.stamp() == self._read else self.read()

    @staticmethod
    def _of(path: Path, act: Callable[[Path], Any]) -> Any:  # noqa: ANN401 - what the act gives
        try:
            found = act(path)
        except OSError as error:
            raise SecurityError(
                f"{path} cannot be read ({error.strerror}): correct its setting in [security]"
            ) from error
        if isinstance(found, os.stat_result):
            return (found.st_mtime_ns, found.st_size, found.st_ino)
        if b"-----BEGIN" not in cast("bytes", found):
            raise SecurityError(f"{path} is not PEM: name a file with -----BEGIN ...----- in it")
        return found
