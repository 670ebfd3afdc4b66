"""Addresses of services: loopback checks, parsing and formatting."""

from __future__ import annotations

import ipaddress
import re

_AUTHORITY = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._~!$&'()*+,;=%-]+))"
    r"(?::(?P<port>[0-9]{0,5}))?"
)
"""RFC 3986's `host [ ":" port ]`, without userinfo and without the form `IPvFuture`."""
_LOOPBACK_V4 = ipaddress.ip_network("127.0.0.0/8")


def is_loopback(host: str) -> bool:
    """Whether the address stays on this machine. Names are not resolved: only localhost does."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(target: str) -> str:
    """The host in gRPC's `host:port`, `[host]:port` or `dns:///host:port`; another target
    as it is."""
    match = _AUTHORITY.fullmatch(target.removeprefix("dns:///"))
    return target if match is None else match["v6"] or match["name"]


def names_this_machine(authority: str) -> bool:
    """Whether HTTP's `Host` is `localhost`, an address in 127.0.0.0/8 or `[::1]`, with or without a
    port. False for anything that some proxy or browser might take for one of these."""
    match = _AUTHORITY.fullmatch(authority)
    # The port may be empty after the colon (RFC 3986, section 3.2.3).
    if match is None or int(match["port"] or 0) > 65_535:
        return False
    if match["name"] is not None and match["name"].lower() == "localhost":
        return True
    try:
        if match["v6"] is not None:
            return ipaddress.IPv6Address(match["v6"]) == ipaddress.IPv6Address("::1")
        # Four decimal numbers only: resolvers also read 127.1 and 0x7f.0.0.1 as addresses.
        return ipaddress.IPv4Address(match["name"]) in _LOOPBACK_V4
    except ValueError:
        return False


def address(host: str, port: int) -> str:
    """`host:port`, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
