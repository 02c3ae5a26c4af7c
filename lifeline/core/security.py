"""Encryption, authentication and authorization of calls: TLS, client certificates and bearer tokens.

The settings have two parts. The server part (`certificate`, `client_ca`, `callers`) says what a node requires of its
callers. The client part (`ca`, `client_certificate`, `token`) says what this process presents and trusts when it calls
a node. Nodes call each other, so a node uses both. Changed files are read again: by the server at the next handshake,
for outgoing calls at the next channel, and a token file at the next call.

Calls are direct: a proxy from the environment is used only with `use_proxy`, and never between nodes or to loopback.

A token is sent over TLS, or unencrypted to loopback only. To an address that came from another node, such as one that a
member of the group advertises, it is sent only if `ca` has signed the certificate there, or the address is loopback.
"""

import hashlib
import re
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import grpc
import grpc.aio
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from lifeline.core.credentials import Token, TokenFile, file_stamp, token_text
from lifeline.core.errors import SecurityError
from lifeline.core.loopback import loopback_addresses, loopback_target
from lifeline.core.methods import ALL_USER_METHODS, AUDIENCES

KEEPALIVE = (("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000))
"""Options for both sides of a connection: a peer that has silently disappeared is detected within 30 s."""
AUTHORIZATION = "authorization"
"""The metadata key of the token, whose value is ``Bearer TOKEN``."""
_SHA256 = re.compile("[0-9a-fA-F]{64}")
_MAX_TOKENS = 2
DIRECT = (("grpc.enable_http_proxy", 0), ("grpc.address_http_proxy_enabled_addresses", ""))
"""Options of a channel that takes no proxy from the environment."""


def _hashes(value: object) -> tuple[str, ...]:
    """Parse one or two hashes, comma-separated in a string. The error does not show the value: it may be a token."""
    values = value.replace(",", " ").split() if isinstance(value, str) else value
    if isinstance(values, list | tuple) and 1 <= len(values) <= _MAX_TOKENS:
        hashes = [text.lower() for value in values if _SHA256.fullmatch(text := str(value).strip())]
        if len(hashes) == len(values) == len(set(hashes)):
            return tuple(hashes)
    raise ValueError(
        "it is not one or two SHA-256 hashes of tokens, of 64 hexadecimal digits each: `lifeline token` makes a "
        "token and its hash; if a token was written here, replace it, because others may have read it"
    )


class Caller(BaseModel):
    """A caller: the hashes of its tokens, its methods and its limits."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    token_sha256: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(_hashes),
        Field(
            description="SHA-256 of the token, or of the old and the new token; `lifeline token` makes token and hash"
        ),
    ]
    methods: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="methods that the caller may call, by name; * stands for those of users (GetSequence, Score, "
            "reflection), not for operators' (CreateSnapshot, ListPartitions, GetModel, UseModel) and nodes' "
            "(ListFingerprints)",
        ),
    ] = (ALL_USER_METHODS,)
    max_concurrent: Annotated[int | None, Field(ge=1, description="concurrent calls; default: the node's limit")] = None
    max_streams: Annotated[int | None, Field(ge=1, description="concurrent streams; only reflection has streams")] = (
        None
    )
    max_message_kib: Annotated[
        int | None, Field(ge=1, description="largest request; default: node.max_message_mib")
    ] = None

    @field_validator("methods")
    @classmethod
    def _are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for number, name in enumerate(value, 1):
            if name != ALL_USER_METHODS and name not in AUDIENCES:
                raise ValueError(
                    f"entry {number} is not a method: use {ALL_USER_METHODS} for the methods of users, or names out of "
                    f"{', '.join(AUDIENCES)}"
                )
        return value


class SecuritySettings(BaseModel):
    """TLS and tokens; without them calls are unencrypted, and the node listens on loopback only."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    certificate: Annotated[Path | None, Field(description="PEM: this node's certificate chain")] = None
    private_key: Annotated[Path | None, Field(description="PEM: the private key of that certificate")] = None
    client_ca: Annotated[
        Path | None,
        Field(
            description="PEM: callers must present a certificate that one of these CAs signed; default: no mutual TLS"
        ),
    ] = None
    callers: Annotated[
        dict[str, Caller], Field(description="the permitted callers, by name; default: everybody on loopback")
    ] = {}
    open: Annotated[
        bool,
        Field(description="listen on any address without callers or client_ca: everybody may read and score"),
    ] = False
    ca: Annotated[
        Path | None, Field(description="PEM: make calls over TLS, to nodes whose certificate one of these CAs signed")
    ] = None
    tls: Annotated[bool, Field(description="make calls over TLS; without a ca, the system's CAs are trusted")] = False
    client_certificate: Annotated[
        Path | None, Field(description="PEM: the client certificate for calls to nodes that require one")
    ] = None
    client_key: Annotated[Path | None, Field(description="PEM: the private key of that certificate")] = None
    token: Annotated[
        Token,
        Field(description="bearer token for outgoing calls of clients and commands; nodes never send it"),
    ] = None
    token_file: Annotated[
        Path | None, Field(description="file that contains only the token; read again when it has changed")
    ] = None
    peer_token: Annotated[
        Token,
        Field(description="bearer token for calls to other nodes, of a caller whose only method is ListFingerprints"),
    ] = None
    use_proxy: Annotated[
        bool,
        Field(
            description="make the calls of clients and commands through the proxy of grpc_proxy, https_proxy or "
            "http_proxy; calls to loopback and calls of nodes are direct in any case"
        ),
    ] = False
    peer_name: Annotated[
        str | None,
        Field(
            min_length=1,
            description="a name in the certificates of all nodes and in no others, by which nodes verify each other; "
            "default: the name that each node advertises",
        ),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for certificate, key in (("certificate", "private_key"), ("client_certificate", "client_key")):
            if (getattr(self, certificate) is None) != (getattr(self, key) is None):
                raise ValueError(f"security.{certificate} and security.{key} belong together: set both, or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("security.client_ca needs security.certificate: set it, with its key")
        if self.client_certificate is not None and not self.calls_tls:
            raise ValueError("security.client_certificate needs security.ca or security.tls: set one of them")
        if self.peer_name is not None and self.ca is None:
            raise ValueError(
                "security.peer_name needs security.ca: set it to the CA that signs the certificates of nodes"
            )
        if self.token is not None and self.token_file is not None:
            raise ValueError("security.token and security.token_file are both set: leave one of them out")
        if self.open and (self.callers or self.client_ca is not None):
            raise ValueError(
                "security.open lets everybody call, but security.callers and security.client_ca do not: leave one out"
            )
        hashes = [digest for caller in self.callers.values() for digest in caller.token_sha256]
        if len(set(hashes)) != len(hashes):
            raise ValueError("two of security.callers have the same token: give each caller its own token")
        return self

    @property
    def calls_tls(self) -> bool:
        """Whether clients use TLS for calls."""
        return self.tls or self.ca is not None

    def listening_addresses(self, address: str) -> tuple[str, ...]:
        """Return the host:port to listen on for `address`; without security settings, its loopback addresses.

        Raises SecurityError if everybody could call from another machine, or tokens would arrive unencrypted.
        """
        if self.open or self.client_ca is not None or (self.callers and self.certificate is not None):
            return (address,)
        local = loopback_addresses(address)
        if local:
            return local
        if self.callers:
            raise SecurityError(
                f"callers would send their tokens to {address} unencrypted: set security.certificate and "
                "security.private_key, or listen on 127.0.0.1"
            )
        raise SecurityError(
            f"other machines can reach {address}, and [security] does not say who may call: set security.callers "
            "(`lifeline token` makes a token) with security.certificate and security.private_key, or "
            "security.client_ca; or listen on 127.0.0.1; or set security.open = true to let everybody call who can "
            "reach the port"
        )


def token_hash(token: str) -> str:
    """Return the SHA-256 of a token without white space at its ends: 64 hexadecimal digits, as in a configuration."""
    return hashlib.sha256(token.strip().encode()).hexdigest()


def server_credentials(settings: SecuritySettings) -> grpc.ServerCredentials | None:
    """Return the server's TLS credentials; None without TLS. Raises SecurityError if a file cannot be used."""
    if settings.certificate is None or settings.private_key is None:
        return None
    files = _Files([path for path in (settings.private_key, settings.certificate, settings.client_ca) if path])

    def configuration_of(contents: Sequence[bytes]) -> Any:  # noqa: ANN401 - the library does not export the type
        key, chain, *client_ca = contents
        return grpc.ssl_server_certificate_configuration(
            [(key, chain)], root_certificates=client_ca[0] if client_ca else None
        )

    def changed_configuration() -> Any:  # noqa: ANN401
        try:
            contents = files.read_if_changed()
        except SecurityError:
            # The rotation is incomplete: keep the old certificates until all files are valid.
            return None
        return None if contents is None else configuration_of(contents)

    return grpc.dynamic_ssl_server_credentials(
        configuration_of(files.read()),
        changed_configuration,
        require_client_authentication=settings.client_ca is not None,
    )


@dataclass(frozen=True, slots=True)
class CallSecurity:
    """TLS credentials and bearer token for calls to nodes."""

    credentials: grpc.ChannelCredentials | None = None
    """None without TLS."""
    token: Callable[[], str] | None = None
    """Returns the current token; None if calls carry no token."""
    has_own_ca: bool = False
    """Whether `credentials` trust the configured CA, and not those of the system, which sign for everybody."""
    server_name: str | None = None
    """The name that the node's certificate must have; None for the host of the address."""
    stamp: tuple[object, ...] = ()
    """Modification times, sizes and inodes of the files: differs from `stamp_of` once a file has changed."""
    use_proxy: bool = False
    """Whether calls to other machines go through the proxy that the environment names."""

    @classmethod
    def of(cls, settings: SecuritySettings) -> Self:
        """Return the security of calls by clients and commands; raises SecurityError if a file cannot be used."""
        token: Callable[[], str] | None = None
        if settings.token_file is not None:
            token = TokenFile(settings.token_file).read
        elif settings.token:
            token = settings.token.get_secret_value
        return cls._create(settings, token, tls=settings.calls_tls, use_proxy=settings.use_proxy)

    @classmethod
    def between_nodes(cls, settings: SecuritySettings) -> Self:
        """Return the security of calls between nodes: direct, and with TLS also if only the node has a certificate."""
        token = settings.peer_token.get_secret_value if settings.peer_token else None
        tls = settings.calls_tls or settings.certificate is not None
        return cls._create(settings, token, tls=tls, server_name=settings.peer_name)

    @classmethod
    def _create(
        cls,
        settings: SecuritySettings,
        token: Callable[[], str] | None,
        *,
        tls: bool,
        server_name: str | None = None,
        use_proxy: bool = False,
    ) -> Self:
        if not tls:
            return cls(token=token, use_proxy=use_proxy)
        files = _files_of_calls(settings)
        contents = files.read()
        ca = contents.pop(0) if settings.ca is not None else system_authorities()
        key, chain = contents or (None, None)
        credentials = grpc.ssl_channel_credentials(ca, key, chain)
        return cls(credentials, token, settings.ca is not None, server_name, files.stamp(), use_proxy)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call: the token as of now, if any. Raises SecurityError if no header can carry it."""
        if self.token is None:
            return ()
        try:
            return ((AUTHORIZATION, f"Bearer {token_text(self.token())}"),)
        except ValueError as error:
            raise SecurityError(f"CallSecurity.token: {error}") from None

    def without_token(self) -> "CallSecurity":
        """Return a copy for calls without a token."""
        return replace(self, token=None)

    def trusts(self, address: str) -> bool:
        """Return whether a token may be sent to an address that came from another node."""
        return self.has_own_ca if self.credentials is not None else loopback_target(address) is not None

    def channel(
        self, address: str, options: Sequence[tuple[str, int | str]], *, with_token: bool = False
    ) -> grpc.Channel:
        """Return a channel to a node. It does not add the token: pass `metadata` with each call.

        Set `with_token` if calls will carry another caller's token, and this object has none. Raises SecurityError if
        a token would leave the machine unencrypted.
        """
        target, options = self._target(address, options, with_token=with_token)
        if self.credentials is None:
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(target, self.credentials, options)

    def aio_channel(self, address: str, options: Sequence[tuple[str, int | str]]) -> grpc.aio.Channel:
        """Return the same channel for asyncio."""
        target, options = self._target(address, options)
        if self.credentials is None:
            return grpc.aio.insecure_channel(target, options)
        return grpc.aio.secure_channel(target, self.credentials, options)

    def _target(
        self, address: str, options: Sequence[tuple[str, int | str]], *, with_token: bool = False
    ) -> tuple[str, Sequence[tuple[str, int | str]]]:
        """Return gRPC's target and the channel options."""
        options = (*KEEPALIVE, *options)
        if not self.use_proxy or loopback_target(address) is not None:
            options = (*options, *DIRECT)
        if self.credentials is not None:
            name = self.server_name
            return address, options if name is None else (*options, ("grpc.ssl_target_name_override", name))
        if self.token is None and not with_token:
            return address, options
        target = loopback_target(address)
        if target is None:
            raise SecurityError(
                f"a token would be sent to {address} unencrypted: set security.ca to the CA that signed the node's "
                "certificate, or security.tls = true if a public CA did; without TLS a token may go to loopback only"
            )
        # The name may resolve to another address by now: with a token the call is direct in any case.
        return target, (*options, *DIRECT)


INSECURE = CallSecurity()
"""Calls without TLS and without a token."""


def stamp_of(settings: SecuritySettings) -> tuple[object, ...]:
    """Return the stamp of the files for outgoing calls; it changes when a file changes."""
    return _files_of_calls(settings).stamp()


def system_authorities() -> bytes | None:
    """Return the CA certificates of the system as PEM; ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` override them.

    None if it has none: gRPC then uses its built-in list.
    """
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return Path(paths.cafile).read_bytes()
    files = sorted(Path(paths.capath).glob("*.[0-9]")) if paths.capath else []
    return b"\n".join(path.read_bytes() for path in files) or None


def _files_of_calls(settings: SecuritySettings) -> "_Files":
    return _Files([path for path in (settings.ca, settings.client_key, settings.client_certificate) if path])


class _Files:
    """A set of files that is read again when one of them has changed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._read: tuple[object, ...] = ()
        self._lock = threading.Lock()

    def stamp(self) -> tuple[object, ...]:
        return tuple(file_stamp(path) for path in self._paths)

    def read(self) -> list[bytes]:
        self._read = self.stamp()
        return [self._content(path) for path in self._paths]

    def read_if_changed(self) -> list[bytes] | None:
        with self._lock:
            return None if self.stamp() == self._read else self.read()

    @staticmethod
    def _content(path: Path) -> bytes:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SecurityError(
                f"{path} cannot be read ({error.strerror}): correct its setting in [security]"
            ) from error
        if b"-----BEGIN" not in content:
            raise SecurityError(f"{path} is not PEM: name a file that contains -----BEGIN ...-----")
        return content
