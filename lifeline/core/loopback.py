"""Loopback: whether an address stays on this machine, judged by what its name resolves to and never by its spelling.

Whoever relies on the answer connects to, or listens at, the resolved addresses: nobody asks the name service again
between the look and the use, because it could give another answer then.
"""

import ipaddress
import socket
from urllib.parse import unquote

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_SOCKETS = ("unix:", "unix-abstract:")


def loopback_addresses(address: str) -> tuple[str, ...]:
    """Return what a host:port resolves to, as number:port; empty unless each one of them is loopback."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return ()
    try:
        found = socket.getaddrinfo(host.removeprefix("[").removesuffix("]"), int(port), type=socket.SOCK_STREAM)
        resolved = list(dict.fromkeys(ipaddress.ip_address(each[4][0]) for each in found))
    except (OSError, UnicodeError, ValueError, OverflowError):
        return ()
    if not all(map(_is_loopback, resolved)):
        return ()
    return tuple(f"[{each}]:{port}" if each.version == 6 else f"{each}:{port}" for each in resolved)


def loopback_target(address: str) -> str | None:
    """Return the target with which gRPC connects to an address on this machine; None for any other address."""
    if address.startswith(_SOCKETS):
        return address
    found = loopback_addresses(address)
    if not found:
        return None
    if all(each.startswith("[") for each in found):
        return f"ipv6:{','.join(found)}"
    if not any(each.startswith("[") for each in found):
        return f"ipv4:{','.join(found)}"
    # A target has one family: IPv4 addresses are mapped into the other one.
    return "ipv6:" + ",".join(each if each.startswith("[") else _mapped(each) for each in found)


def is_loopback_peer(peer: str) -> bool:
    """Say whether gRPC's name of a peer (``ipv4:127.0.0.1:40000``, ``unix:``) is one on this machine."""
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
