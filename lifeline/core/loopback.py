"""Loopback: whether an address stays on this machine, judged by the addresses it resolves to, never by its spelling.

Callers connect to, or listen on, the addresses that they get back. They must not resolve the name again, because the
name service could return other addresses the second time.
"""

import ipaddress
import socket
from urllib.parse import unquote

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_SOCKETS = ("unix:", "unix-abstract:")


def loopback_addresses(address: str) -> tuple[str, ...]:
    """Resolve host:port to (numeric address):port; empty unless all addresses are loopback."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return ()
    try:
        infos = socket.getaddrinfo(host.removeprefix("[").removesuffix("]"), int(port), type=socket.SOCK_STREAM)
        resolved = list(dict.fromkeys(ipaddress.ip_address(info[4][0]) for info in infos))
    except (OSError, UnicodeError, ValueError, OverflowError):
        return ()
    if not all(map(_is_loopback, resolved)):
        return ()
    return tuple(f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}" for ip in resolved)


def loopback_target(address: str) -> str | None:
    """Return the gRPC target of an address on this machine; None for any other address."""
    if address.startswith(_SOCKETS):
        return address
    addresses = loopback_addresses(address)
    if not addresses:
        return None
    ipv6 = [item for item in addresses if item.startswith("[")]
    if len(ipv6) == len(addresses):
        return f"ipv6:{','.join(addresses)}"
    if not ipv6:
        return f"ipv4:{','.join(addresses)}"
    # A target has one address family: map the IPv4 addresses into IPv6.
    return "ipv6:" + ",".join(item if item.startswith("[") else _mapped(item) for item in addresses)


def is_loopback_peer(peer: str) -> bool:
    """Return whether a peer, in gRPC's notation (``ipv4:127.0.0.1:40000``, ``unix:``), is on this machine."""
    if peer.startswith(_SOCKETS):
        return True
    scheme, _, rest = unquote(peer).partition(":")
    if scheme not in {"ipv4", "ipv6"}:
        return False
    try:
        return _is_loopback(ipaddress.ip_address(rest.rpartition(":")[0].removeprefix("[").removesuffix("]")))
    except ValueError:
        return False


def _is_loopback(address: IpAddress) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _mapped(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"[::ffff:{host}]:{port}"
