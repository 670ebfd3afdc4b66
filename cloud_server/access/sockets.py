"""TCP connections of this process by their peers, from /proc/self/fd (Linux only).

gRPC's core accepts connections without reporting them; the kernel lists them all.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import sys
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

_DESCRIPTORS = "/proc/self/fd"
_ADDRESS_BYTES = 28  # sizeof(struct sockaddr_in6)
# Not Python's sockets: each of their calls releases the GIL, so a scan of thousands of sockets
# could wait thousands of times for a busy thread. `PyDLL` keeps the GIL.
_libc = ctypes.PyDLL(None)


class Peer(NamedTuple):
    """The remote end of a connection; an IPv4-mapped IPv6 address becomes plain IPv4."""

    address: str
    port: int


@lru_cache(4096)
def parse_peer(text: str) -> Peer | None:
    """The peer in gRPC's notation, such as `ipv4:192.0.2.1:50000` or
    `ipv6:%5B2001:db8::1%5D:50000`; None if it is not a TCP peer."""
    kind, _, rest = unquote(text).partition(":")
    address, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    with suppress(ValueError):
        return Peer(_normalized(address.strip("[]").partition("%")[0]), int(port))
    return None


def host_of(text: str) -> str:
    """The address of a peer in gRPC's notation; empty if it is not a TCP peer."""
    peer = parse_peer(text)
    return peer.address if peer else ""


def accepted_sockets(port: int) -> dict[Peer, int]:
    """File descriptors, by peer, of the connections accepted on a local port.

    Raises:
        OSError: this system has no /proc.
    """
    descriptors = {}
    local, remote = (ctypes.create_string_buffer(_ADDRESS_BYTES) for _ in range(2))
    for name in os.listdir(_DESCRIPTORS):
        local_end = _endpoint(_libc.getsockname, int(name), local)
        if local_end is not None and local_end.port == port:
            peer = _endpoint(_libc.getpeername, int(name), remote)
            if peer is not None:
                descriptors[peer] = int(name)
    return descriptors


def shut_down(descriptor: int, peer: Peer) -> bool:
    """Shut down a connection whose descriptor gRPC owns; to gRPC it looks closed by the peer.

    False if the connection is gone. Its descriptor number may have been reused meanwhile, so a
    duplicate is checked against `peer` before it is shut down.
    """
    try:
        duplicate = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return False
    with duplicate:
        buffer = ctypes.create_string_buffer(_ADDRESS_BYTES)
        if _endpoint(_libc.getpeername, duplicate.fileno(), buffer) != peer:
            return False
        with suppress(OSError):
            duplicate.shutdown(socket.SHUT_RDWR)
    return True


def _endpoint(call: object, descriptor: int, buffer: ctypes.Array[ctypes.c_char]) -> Peer | None:
    """The local or remote end of a connection, by libc's `getsockname` or `getpeername`; None if
    the descriptor is not a connected TCP socket."""
    size = ctypes.c_uint32(_ADDRESS_BYTES)
    assert callable(call)
    if call(descriptor, buffer, ctypes.byref(size)) != 0:
        return None
    # struct sockaddr: family in host order, port in network order, then the address.
    raw = buffer.raw
    family, port = int.from_bytes(raw[:2], sys.byteorder), int.from_bytes(raw[2:4], "big")
    if family == socket.AF_INET:
        return Peer(_normalized(raw[4:8]), port)
    if family == socket.AF_INET6:
        return Peer(_normalized(raw[8:24]), port)
    return None


@lru_cache(4096)
def _normalized(address: str | bytes) -> str:
    parsed = ipaddress.ip_address(address)
    # A dual-stack socket reports IPv4 peers as ::ffff:a.b.c.d, gRPC as plain IPv4.
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
