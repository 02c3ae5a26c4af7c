"""Servers with TLS and tokens, and calls to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from lifeline.client import LifelineClient, LifelineError
from lifeline.core.security import CallSecurity, SecuritySettings, token_hash
from lifeline.rpc.server import NodeServer, Services
from lifeline.rpc.settings import NodeSettings
from tests.support.grpc_services import Scores, Sequences
from tests.support.operators import Models, Operators


class Authority:
    """A CA, and files of what it signs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        self._ca = trustme.CA()
        self.ca = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the certificate's and the key's file, of a host or a caller."""
        issued = self._ca.issue_cert(name)
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return certificate, key


@contextmanager
def serving(security: SecuritySettings, address: str = "127.0.0.1:0") -> Iterator[tuple[NodeServer, Sequences]]:
    """Serve, with sequences that answer at once."""
    sequences = Sequences()
    sequences.go.set()
    settings = NodeSettings(grpc_address=address)
    running = NodeServer(settings, Services(sequences, Scores(), Operators(), Models()), security=security)
    try:
        yield running, sequences
    finally:
        sequences.go.set()
        running.stop(5)


def server_of(authority: Authority, name: str = "127.0.0.1", **more: object) -> SecuritySettings:
    certificate, key = authority.issue(name)
    return SecuritySettings.model_validate({"certificate": certificate, "private_key": key, **more})


def call(server: NodeServer, *, user: str = "ann", **security: object) -> None:
    """Make a call as a client with these settings does."""
    settings = SecuritySettings.model_validate(security)
    with LifelineClient(server.address, timeout_s=10, retry=False, security=CallSecurity.of(settings)) as client:
        client.get_sequence(user)


def refusal(server: NodeServer, *, user: str = "ann", **security: object) -> LifelineError:
    with pytest.raises(LifelineError) as caught:
        call(server, user=user, **security)
    return caught.value


CALLERS = {
    "reader": {"token_sha256": token_hash("read"), "methods": ["GetSequence"], "max_concurrent": 1},
    "ranker": {"token_sha256": token_hash("rank"), "methods": ["Score"]},
    "operator": {"token_sha256": token_hash("all")},
}
