"""A client of the node that the configuration names."""

from lifeline.client import LifelineClient
from lifeline.config import Settings
from lifeline.core.security import CallSecurity


def node_client(settings: Settings, *, timeout_s: float = 10.0, retry: bool = True) -> LifelineClient:
    """Return a client of `node.grpc_address`, with the TLS and the token of `security`; raises SecurityError."""
    security = CallSecurity.of(settings.security)
    return LifelineClient(settings.node.grpc_address, timeout_s=timeout_s, security=security, retry=retry)
