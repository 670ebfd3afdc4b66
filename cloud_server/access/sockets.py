"""This process's own TCP connections, by their peers. Linux: looked up in /proc/self/fd.

gRPC's core accepts connections by itself and tells nobody of them; the system knows them all.
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
_ADDRESS_BYTES = 28
# Not Python's sockets: each of their calls lets another thread take the interpreter's lock, and
# thousands of them in a row would wait for a busy thread thousands of times.
_libc = ctypes.PyDLL(None)


class Peer(NamedTuple):
    """The other end of a connection; IPv4 addresses as such, however they came."""

    address: str
    port: int


@lru_cache(4096)
def peer_named(text: str) -> Peer | None:
    """What gRPC calls a peer, as in `ipv4:192.0.2.1:50000` or `ipv6:%5B2001:db8::1%5D:50000`; None
    if it is no TCP connection."""
    kind, _, rest = unquote(text).partition(":")
    address, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    with suppress(ValueError):
        return Peer(_plain(address.strip("[]").partition("%")[0]), int(port))
    return None


def host_of(text: str) -> str:
    """The address of what gRPC calls a peer; empty if it is no TCP connection."""
    peer = peer_named(text)
    return peer.address if peer else ""


def accepted(port: int) -> dict[Peer, int]:
    """Descriptors of the connections that were accepted on a local port.

    Raises:
        OSError: this system has no /proc.
    """
    found = {}
    local, remote = (ctypes.create_string_buffer(_ADDRESS_BYTES) for _ in range(2))
    for name in os.listdir(_DESCRIPTORS):
        end = _end(_libc.getsockname, int(name), local)
        if end is not None and end.port == port:
            peer = _end(_libc.getpeername, int(name), remote)
            if peer is not None:
                found[peer] = int(name)
    return found


def shut(descriptor: int, peer: Peer) -> bool:
    """End a connection whose descriptor someone else owns, who sees it closed by the other side.
    False if the descriptor is another's by now."""
    try:
        own = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return False
    with own:
        buffer = ctypes.create_string_buffer(_ADDRESS_BYTES)
        if _end(_libc.getpeername, own.fileno(), buffer) != peer:
            return False
        with suppress(OSError):
            own.shutdown(socket.SHUT_RDWR)
    return True


def _end(call: object, descriptor: int, buffer: ctypes.Array[ctypes.c_char]) -> Peer | None:
    """One end of a connection; None if the descriptor is nothing of that kind."""
    size = ctypes.c_uint32(_ADDRESS_BYTES)
    assert callable(call)
    if call(descriptor, buffer, ctypes.byref(size)) != 0:
        return None
    raw = buffer.raw
    family, port = int.from_bytes(raw[:2], sys.byteorder), int.from_bytes(raw[2:4], "big")
    if family == socket.AF_INET:
        return Peer(_plain(raw[4:8]), port)
    if family == socket.AF_INET6:
        return Peer(_plain(raw[8:24]), port)
    return None


@lru_cache(4096)
def _plain(address: str | bytes) -> str:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
