"""Two network namespaces joined by veth, one for the edge and one for the cloud, shaped by tc.

Nothing outside them is touched: interfaces are made inside, and names hold the owner's process id
and the time it started, so that what a killed owner left behind is known as such and removed by the
next.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

from aligned_vq.errors import ConfigError
from benchmarks.links.profiles import Link

PREFIX = "avq-links"
EDGE_ADDRESS, CLOUD_ADDRESS = "10.77.0.1", "10.77.0.2"
INTERFACE = "link0"
ETHERNET_BYTES = 14
BURST_S = 0.01
"""Of the rate goes through the bucket at once, within what packets may have: small ones on slow
links, or a payload of a few hundred bytes would pass for free."""
LEAST_MTU, MOST_MTU = 576, 1500
QUEUE_BYTES = 262_144
NETEM_PACKETS = 10_000
_NUMBERS = itertools.count()


class NotPermitted(ConfigError):
    """This process may not make network namespaces, or the tools for it are missing."""


class Namespaces:
    """The pair; made when entered, removed when left, also by SIGTERM.

    Raises:
        NotPermitted: they cannot be made here.
    """

    def __init__(self) -> None:
        owner = f"{PREFIX}-{os.getpid()}-{_started(os.getpid())}-{next(_NUMBERS)}"
        self.edge, self.cloud = f"{owner}-edge", f"{owner}-cloud"
        self.netem = False
        """Has the kernel a `netem`?"""

    def __enter__(self) -> Self:
        for tool in ("ip", "tc"):
            if shutil.which(tool) is None:
                raise NotPermitted(f"expected the command {tool}, found none; install iproute2")
        remove_stale()
        self._restore = _exit_on_sigterm()
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def inside(self, name: str) -> tuple[str, ...]:
        """The beginning of a command that runs in the namespace `name`."""
        return ("ip", "netns", "exec", name)

    def shape(self, link: Link) -> float:
        """Shape both directions; returns the delay in milliseconds, one way, that is left to user
        space: none with `netem`, else all of it and the time of a bucket's burst."""
        credit_ms = []
        for name, rate in ((self.edge, link.up_kbit), (self.cloud, link.down_kbit)):
            packet = mtu(rate)
            _run("ip", "-n", name, "link", "set", INTERFACE, "mtu", str(packet))
            _run("tc", "-n", name, "qdisc", "del", "dev", INTERFACE, "root", check=False)
            for arguments in disciplines(link, rate, self.netem):
                _run("tc", "-n", name, "qdisc", "add", "dev", INTERFACE, *arguments)
            credit_ms.append(burst_ms(rate))
        return 0.0 if self.netem else link.delay_ms + max(credit_ms)

    def _make(self) -> None:
        for name in (self.edge, self.cloud):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        peer = ("peer", "name", INTERFACE, "netns", self.cloud)
        _run("ip", "link", "add", INTERFACE, "netns", self.edge, "type", "veth", *peer)
        for name, address in ((self.edge, EDGE_ADDRESS), (self.cloud, CLOUD_ADDRESS)):
            _run("ip", "-n", name, "address", "add", f"{address}/30", "dev", INTERFACE)
            _run("ip", "-n", name, "link", "set", INTERFACE, "up")
        self.netem = _run(
            *("tc", "-n", self.edge, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"),
            check=False,
        )
        if self.netem:
            _run("tc", "-n", self.edge, "qdisc", "del", "dev", "lo", "root")
        self.shape(Link("any", 1000, 1000))  # a kernel without a bucket is known now

    def _remove(self) -> None:
        for name in (self.edge, self.cloud):
            _delete(name)
        self._restore()


def mtu(rate_kbit: float) -> int:
    """Bytes of the largest packet on a link of this rate."""
    return int(min(max(125 * rate_kbit * BURST_S, LEAST_MTU), MOST_MTU))


def burst_bytes(rate_kbit: float) -> int:
    """Depth of the bucket: one packet, or what a timer's tick needs at high rates."""
    return max(mtu(rate_kbit) + ETHERNET_BYTES, int(125 * rate_kbit * 1e-3))


def burst_ms(rate_kbit: float) -> float:
    """What the bucket's depth would have taken on the link. Added to the delay it makes the time
    of everything longer than the burst exact, and of what is shorter rather too long."""
    return 8 * burst_bytes(rate_kbit) / rate_kbit


def disciplines(link: Link, rate_kbit: float, netem: bool) -> list[list[str]]:
    """Arguments of `tc qdisc add dev ...` for one direction, in order."""
    bucket = ["tbf", "rate", f"{rate_kbit:g}kbit", "burst", f"{burst_bytes(rate_kbit)}b"]
    bucket += ["limit", f"{QUEUE_BYTES}b"]
    if not netem:
        return [["root", *bucket]]
    delay = f"{link.delay_ms + burst_ms(rate_kbit) + link.jitter_ms / 2:g}ms"
    rest = ["netem", "limit", str(NETEM_PACKETS), "delay", delay]
    rest += [f"{link.jitter_ms / 2:g}ms"] if link.jitter_ms else []
    rest += ["loss", f"{100 * link.loss:g}%"] if link.loss else []
    return [["root", "handle", "1:", *rest], ["parent", "1:1", "handle", "10:", *bucket]]


def remove_stale() -> list[str]:
    """Remove pairs whose owner is gone, and end what runs in them; returns their names."""
    found = []
    for line in _output("ip", "netns", "list").splitlines():
        name = line.split()[0] if line.split() else ""
        parts = name.removeprefix(f"{PREFIX}-").split("-")
        if not name.startswith(f"{PREFIX}-") or len(parts) != 4:
            continue
        owner, started, *_ = parts
        if owner.isdigit() and _started(int(owner)) != started:
            _delete(name)
            found.append(name)
    return found


def _delete(name: str) -> None:
    """End what runs in a namespace and remove it; nothing happens if there is none."""
    for pid in _output("ip", "netns", "pids", name).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _run("ip", "netns", "del", name, check=False)


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _run(*command: str, check: bool = True) -> bool:
    """Did it succeed? NotPermitted where it had to and did not."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if check and done.returncode:
        raise NotPermitted(
            f"expected to make and shape network namespaces, got from `{' '.join(command)}`: "
            f"{done.stderr.strip()}; run as root of a machine with namespaces, veth and tbf, or do "
            "without them (namespaces: false)"
        )
    return done.returncode == 0


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout


def _exit_on_sigterm() -> Any:
    """Make SIGTERM leave through every `finally`; returns what restores it."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    return lambda: signal.signal(signal.SIGTERM, before)
