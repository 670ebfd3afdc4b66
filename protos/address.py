"""Addresses of services: what stays on this machine, and how an address is written."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Does the address stay on this machine? A name other than localhost is not looked up: no."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(target: str) -> str:
    """The host of gRPC's `host:port`, `[host]:port` or `dns:///host:port`."""
    host, colon, port = target.removeprefix("dns:///").rpartition(":")
    return (host if colon and port.isdecimal() else target).strip("[]")


def address(host: str, port: int) -> str:
    """`host:port`, with brackets around the colons of IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
