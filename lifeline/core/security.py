"""Who may call a node, and how calls are kept from others' eyes: TLS, certificates of callers, and tokens.

The settings say two things: what this node asks of its callers (`certificate`, `client_ca`, `callers`), and what this
process shows and trusts when it calls a node (`ca`, `client_certificate`, `token`); nodes call each other, so they have
both. Files are read again when they have changed: by the server at the next handshake, for calls at the next channel,
and the file of a token at the next call.

A token goes to an address over TLS, or in the clear to loopback. To an address that somebody told, as a member of the
group advertises one, it goes where this machine's own `ca` has signed the certificate, or to loopback.
"""

import hashlib
import re
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import grpc
import grpc.aio
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from lifeline.core.errors import SecurityError
from lifeline.core.loopback import loopback_addresses, loopback_target
from lifeline.core.methods import ALL_USER_METHODS, AUDIENCES

KEEPALIVE = (("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000))
"""Both sides of a connection ping alike: whoever is gone without a word is found within half a minute."""
AUTHORIZATION = "authorization"
"""The metadata that a token comes in, as ``Bearer TOKEN``."""
_SHA256 = re.compile("[0-9a-fA-F]{64}")
_MOST_TOKENS = 2
# A proxy of the environment would take what is for loopback to another machine.
_NO_PROXY = ("grpc.enable_http_proxy", 0)


def _hashes(value: object) -> tuple[str, ...]:
    """Return one or two hashes, comma separated in a text. The error shows nothing of the value: it may be a token."""
    given = value.replace(",", " ").split() if isinstance(value, str) else value
    if isinstance(given, list | tuple) and 1 <= len(given) <= _MOST_TOKENS:
        hashes = [str(each).lower() for each in given if _SHA256.fullmatch(str(each))]
        if len(hashes) == len(given) == len(set(hashes)):
            return tuple(hashes)
    raise ValueError(
        "it is not the SHA-256 of a token, or two of them, of 64 hexadecimal digits each: `lifeline token` makes a "
        "token and its hash; replace a token that was written here, because others may have read it"
    )


class Caller(BaseModel):
    """Somebody who may call, known by a token."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    token_sha256: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(_hashes),
        Field(description="the token's hash, or those of the old and the new token: lifeline token makes both"),
    ]
    methods: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="methods that may be called, as GetSequence or Score; * for those of users; operators' methods "
            "(CreateSnapshot, ListPartitions, GetModel, UseModel) and the nodes' (ListFingerprints) only by name",
        ),
    ] = (ALL_USER_METHODS,)
    max_concurrent: Annotated[int | None, Field(ge=1, description="calls at once; none: as many as the node takes")] = (
        None
    )
    max_streams: Annotated[int | None, Field(ge=1, description="streams at once, which reflection has")] = None
    max_message_kib: Annotated[
        int | None, Field(ge=1, description="the largest request; none: node.max_message_mib, as for everybody")
    ] = None

    @field_validator("methods")
    @classmethod
    def _are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for number, name in enumerate(value, 1):
            if name != ALL_USER_METHODS and name not in AUDIENCES:
                raise ValueError(
                    f"number {number} of them is no method: give {ALL_USER_METHODS} for those of users, or some of "
                    f"{', '.join(AUDIENCES)}"
                )
        return value


class SecuritySettings(BaseModel):
    """TLS and tokens; without any of it calls are in the clear, and the port is for loopback."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    certificate: Annotated[Path | None, Field(description="PEM: this node's certificate, and those up to its CA's")] = (
        None
    )
    private_key: Annotated[Path | None, Field(description="PEM: its key")] = None
    client_ca: Annotated[
        Path | None,
        Field(description="PEM: callers must show a certificate that one of these signed; none: mutual TLS off"),
    ] = None
    callers: Annotated[dict[str, Caller], Field(description="who may call, by name; none: everybody on loopback")] = {}
    open: Annotated[
        bool,
        Field(description="listen off loopback without callers or client_ca too: everybody may read and score"),
    ] = False
    ca: Annotated[
        Path | None, Field(description="PEM: calls go over TLS, to nodes whose certificate one of these signed")
    ] = None
    tls: Annotated[
        bool, Field(description="calls go over TLS without a ca too: the authorities of the system are trusted")
    ] = False
    client_certificate: Annotated[Path | None, Field(description="PEM: what calls show where callers have to")] = None
    client_key: Annotated[Path | None, Field(description="PEM: its key")] = None
    token: Annotated[
        SecretStr | None, Field(description="what clients and commands say who they are with; nodes never send it")
    ] = None
    token_file: Annotated[
        Path | None, Field(description="a file with nothing but that token, read again when it has changed")
    ] = None
    peer_token: Annotated[
        SecretStr | None,
        Field(description="what this node shows other nodes: of a caller whose methods are ListFingerprints alone"),
    ] = None
    peer_name: Annotated[
        str | None,
        Field(
            min_length=1,
            description="a name that the certificates of all nodes have, and no others: by it nodes know each other; "
            "none: each node by the name that it advertises",
        ),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for one, other in (("certificate", "private_key"), ("client_certificate", "client_key")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"security.{one} and security.{other} belong together: set both, or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("security.client_ca needs security.certificate: set it, with its key")
        if self.client_certificate is not None and not self.calls_tls:
            raise ValueError("security.client_certificate needs security.ca: name whom calls trust")
        if self.peer_name is not None and self.ca is None:
            raise ValueError("security.peer_name needs security.ca: name who signs the certificates of nodes")
        if self.token is not None and self.token_file is not None:
            raise ValueError("security.token and security.token_file are both set: leave one of them out")
        if self.open and (self.callers or self.client_ca is not None):
            raise ValueError(
                "security.open lets everybody call, and security.callers and security.client_ca do not: leave one out"
            )
        hashes = [each for caller in self.callers.values() for each in caller.token_sha256]
        if len(set(hashes)) != len(hashes):
            raise ValueError("two of security.callers have one token: give each a token of its own")
        return self

    @property
    def calls_tls(self) -> bool:
        """Whether clients call over TLS."""
        return self.tls or self.ca is not None

    def listening_addresses(self, address: str) -> tuple[str, ...]:
        """Return the host:port to listen at for `address`; of a port without security the loopback ones it stands for.

        Raises SecurityError where everybody could call from another machine, or tokens would come in the clear.
        """
        if self.open or self.client_ca is not None or (self.callers and self.certificate is not None):
            return (address,)
        local = loopback_addresses(address)
        if local:
            return local
        if self.callers:
            raise SecurityError(
                f"callers would send their tokens to {address} in the clear: set security.certificate and "
                "security.private_key, or listen on 127.0.0.1"
            )
        raise SecurityError(
            f"other machines can reach {address}, and [security] does not say who may call: set security.callers "
            "(`lifeline token` makes a token) with security.certificate and security.private_key, or "
            "security.client_ca; or listen on 127.0.0.1; or set security.open = true to let everybody call who reaches "
            "the port"
        )


def token_hash(token: str) -> str:
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


@dataclass(frozen=True, slots=True)
class CallSecurity:
    """What calls to a node are made with."""

    credentials: grpc.ChannelCredentials | None = None
    """None: no TLS."""
    token: Callable[[], str] | None = None
    """Gives the token of now."""
    has_own_ca: bool = False
    """Whether `credentials` trust a CA of one's own, and not those of the system, which sign for everybody."""
    server_name: str | None = None
    """The name that the certificate must have; None: that of the address."""
    stamp: tuple[object, ...] = ()
    """Another one once the files have changed."""

    @classmethod
    def of(cls, settings: SecuritySettings) -> Self:
        """Return what clients and commands call with; raises SecurityError where a file cannot be used."""
        token: Callable[[], str] | None = None
        if settings.token_file is not None:
            token = _TokenFile(settings.token_file).read
        elif settings.token:
            token = settings.token.get_secret_value
        return cls._made(settings, token, tls=settings.calls_tls)

    @classmethod
    def between_nodes(cls, settings: SecuritySettings) -> Self:
        """Return what a node calls the other nodes with: over TLS where it has a certificate itself."""
        token = settings.peer_token.get_secret_value if settings.peer_token else None
        tls = settings.calls_tls or settings.certificate is not None
        return cls._made(settings, token, tls=tls, server_name=settings.peer_name)

    @classmethod
    def _made(
        cls,
        settings: SecuritySettings,
        token: Callable[[], str] | None,
        *,
        tls: bool,
        server_name: str | None = None,
    ) -> Self:
        if not tls:
            return cls(token=token)
        files = _files_of_calls(settings)
        contents = files.read()
        ca = contents.pop(0) if settings.ca is not None else system_authorities()
        key, chain = contents or (None, None)
        return cls(
            grpc.ssl_channel_credentials(ca, key, chain), token, settings.ca is not None, server_name, files.stamp()
        )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of a call that is made now."""
        return () if self.token is None else ((AUTHORIZATION, f"Bearer {self.token()}"),)

    def without_token(self) -> "CallSecurity":
        """Return the same for calls that need no token."""
        return CallSecurity(self.credentials, None, self.has_own_ca, self.server_name, self.stamp)

    def trusts(self, address: str) -> bool:
        """Say whether a token may go to an address that somebody told."""
        return self.has_own_ca if self.credentials is not None else loopback_target(address) is not None

    def channel(
        self, address: str, options: Sequence[tuple[str, int | str]], *, with_token: bool = False
    ) -> grpc.Channel:
        """Return a channel to a node; calls take the metadata along themselves.

        `with_token` says that calls will carry somebody's token, though there is none here. Raises SecurityError where
        a token would leave the machine in the clear.
        """
        target, options = self._target(address, options, with_token=with_token)
        if self.credentials is None:
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(target, self.credentials, options)

    def aio_channel(self, address: str, options: Sequence[tuple[str, int | str]]) -> grpc.aio.Channel:
        """Return the same for asyncio."""
        target, options = self._target(address, options)
        if self.credentials is None:
            return grpc.aio.insecure_channel(target, options)
        return grpc.aio.secure_channel(target, self.credentials, options)

    def _target(
        self, address: str, options: Sequence[tuple[str, int | str]], *, with_token: bool = False
    ) -> tuple[str, Sequence[tuple[str, int | str]]]:
        """Return what to connect to, and how."""
        options = (*KEEPALIVE, *options)
        if self.credentials is not None:
            name = self.server_name
            return address, options if name is None else (*options, ("grpc.ssl_target_name_override", name))
        if self.token is None and not with_token:
            return address, options
        target = loopback_target(address)
        if target is None:
            raise SecurityError(
                f"a token would go to {address} in the clear: set security.ca to the CA that signed the node's "
                "certificate, or security.tls = true where a public one did; without TLS only this machine is called"
            )
        return target, (*options, _NO_PROXY)


INSECURE = CallSecurity()
"""Calls without TLS and without a token."""


def stamp_of(settings: SecuritySettings) -> tuple[object, ...]:
    """Return what changes when a file that calls are made with does."""
    return _files_of_calls(settings).stamp()


def system_authorities() -> bytes | None:
    """Return the certificates that the system trusts, as PEM; ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name others.

    None where it has none: gRPC then takes a list of its own.
    """
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return Path(paths.cafile).read_bytes()
    found = sorted(Path(paths.capath).glob("*.[0-9]")) if paths.capath else []
    return b"\n".join(path.read_bytes() for path in found) or None


def _files_of_calls(settings: SecuritySettings) -> "_Files":
    return _Files([path for path in (settings.ca, settings.client_key, settings.client_certificate) if path])


class _TokenFile:
    """A token in a file."""

    def __init__(self, path: Path) -> None:
        """Read it; raises SecurityError where that gives no token."""
        self._path = path
        self._stamp, self._token = self._read()

    def read(self) -> str:
        """Return the token of now; the last one while the file cannot be read or is empty."""
        try:
            if file_stamp(self._path) != self._stamp:
                self._stamp, self._token = self._read()
        except SecurityError:
            return self._token
        return self._token

    def _read(self) -> tuple[tuple[int, int, int], str]:
        before = file_stamp(self._path)
        try:
            token = self._path.read_text("ascii").strip()
        except OSError as error:
            raise SecurityError(
                f"{self._path} cannot be read ({error.strerror}): correct security.token_file"
            ) from error
        except UnicodeDecodeError:
            raise SecurityError(f"{self._path} is not ASCII: write a token of `lifeline token` into it") from None
        if not token or len(token.split()) > 1:
            raise SecurityError(f"{self._path} does not hold one token: write one of `lifeline token` into it")
        return before, token


def file_stamp(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file does. Raises SecurityError where it cannot be looked at."""
    try:
        found = path.stat()
    except OSError as error:
        raise SecurityError(f"{path} cannot be read ({error.strerror}): correct its setting in [security]") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


class _Files:
    """Files that are read again when one has changed."""

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
            raise SecurityError(f"{path} is not PEM: name a file with -----BEGIN ...----- in it")
        return content
