"""Addresses of services: what stays on this machine, and how an address is written."""

from __future__ import annotations

import ipaddress
import re

_AUTHORITY = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._~!$&'()*+,;=%-]+))"
    r"(?::(?P<port>[0-9]{0,5}))?"
)
"""RFC 3986's `host [ ":" port ]`, without userinfo and without future forms of addresses."""
_THIS_MACHINE_V4 = ipaddress.ip_network("127.0.0.0/8")


def is_loopback(host: str) -> bool:
    """Does the address stay on this machine? A name other than localhost is not looked up: no."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(target: str) -> str:
    """The host of gRPC's `host:port`, `[host]:port` or `dns:///host:port`; the whole target where
    it is none of these."""
    found = _AUTHORITY.fullmatch(target.removeprefix("dns:///"))
    return target if found is None else found["v6"] or found["name"]


def names_this_machine(authority: str) -> bool:
    """Is HTTP's `Host` this machine: `localhost`, an address 127.0.0.0/8 or `[::1]`, perhaps with a
    port? Whatever else might be taken for one of them by somebody on the way is not."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None or int(found["port"] or 0) > 65_535:
        return False
    if found["name"] is not None and found["name"].lower() == "localhost":
        return True
    try:
        if found["v6"] is not None:
            return ipaddress.IPv6Address(found["v6"]) == ipaddress.IPv6Address("::1")
        return ipaddress.IPv4Address(found["name"]) in _THIS_MACHINE_V4
    except ValueError:
        return False


def address(host: str, port: int) -> str:
    """`host:port`, with brackets around the colons of IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
