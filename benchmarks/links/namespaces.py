"""Two network namespaces joined by a veth pair, one for the edge and one for the cloud.

`tc` shapes the traffic. Nothing outside the namespaces is changed: the interfaces are created
inside them. Their names hold the process id and the start time of the owner, so that namespaces of
a killed owner can be recognised and removed by a later one.
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
"""Seconds of the rate in one packet, within the limits below. With full-sized packets on a slow
link, the bucket would let a payload of a few hundred bytes pass at once."""
MIN_MTU_BYTES, MAX_MTU_BYTES = 576, 1500
QUEUE_BYTES = 262_144
NETEM_PACKETS = 10_000
_NUMBERS = itertools.count()


class NotPermitted(ConfigError):
    """This process may not create network namespaces, or the tools for it are missing."""


class Namespaces:
    """A pair of network namespaces; a context manager that removes them on exit, also by SIGTERM.

    Raises:
        NotPermitted: they cannot be created on this machine.
    """

    def __init__(self) -> None:
        owner = f"{PREFIX}-{os.getpid()}-{_started(os.getpid())}-{next(_NUMBERS)}"
        self.edge, self.cloud = f"{owner}-edge", f"{owner}-cloud"
        self.netem = False
        """Whether the kernel supports `netem`."""

    def __enter__(self) -> Self:
        for tool in ("ip", "tc"):
            if shutil.which(tool) is None:
                raise NotPermitted(f"expected the command {tool}, got none; install iproute2")
        remove_stale()
        self._restore = _exit_on_sigterm()
        try:
            self._create()
        except BaseException:  # also SystemExit, raised by SIGTERM
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def inside(self, name: str) -> tuple[str, ...]:
        """The prefix of a command line that runs in the namespace `name`."""
        return ("ip", "netns", "exec", name)

    def shape(self, link: Link) -> float:
        """Shape both directions; returns the one-way delay in ms that user space has to add.

        That is 0 with `netem`, otherwise the link's delay and the time of a bucket's burst.
        """
        bursts_ms = []
        for name, rate in ((self.edge, link.up_kbit), (self.cloud, link.down_kbit)):
            _run("ip", "-n", name, "link", "set", INTERFACE, "mtu", str(mtu(rate)))
            _run("tc", "-n", name, "qdisc", "del", "dev", INTERFACE, "root", check=False)
            for arguments in disciplines(link, rate, self.netem):
                _run("tc", "-n", name, "qdisc", "add", "dev", INTERFACE, *arguments)
            bursts_ms.append(burst_ms(rate))
        return 0.0 if self.netem else link.delay_ms + max(bursts_ms)

    def _create(self) -> None:
        for name in (self.edge, self.cloud):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        peer = ("peer", "name", INTERFACE, "netns", self.cloud)
        _run("ip", "link", "add", INTERFACE, "netns", self.edge, "type", "veth", *peer)
        for name, address in ((self.edge, EDGE_ADDRESS), (self.cloud, CLOUD_ADDRESS)):
            _run("ip", "-n", name, "address", "add", f"{address}/30", "dev", INTERFACE)
            _run("ip", "-n", name, "link", "set", INTERFACE, "up")
        # A kernel without netem can only be recognised by trying it, here on the loopback.
        self.netem = _run(
            *("tc", "-n", self.edge, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"),
            check=False,
        )
        if self.netem:
            _run("tc", "-n", self.edge, "qdisc", "del", "dev", "lo", "root")
        self.shape(Link("any", 1000, 1000))  # a kernel without tbf has to fail here, not later

    def _remove(self) -> None:
        for name in (self.edge, self.cloud):
            _delete(name)
        self._restore()


def mtu(rate_kbit: float) -> int:
    """The size of the largest packet on a link of this rate, in bytes."""
    return int(min(max(125 * rate_kbit * BURST_S, MIN_MTU_BYTES), MAX_MTU_BYTES))


def burst_bytes(rate_kbit: float) -> int:
    """Depth of the token bucket: one packet, or one millisecond of the rate if that is more."""
    return max(mtu(rate_kbit) + ETHERNET_BYTES, int(125 * rate_kbit * 1e-3))


def burst_ms(rate_kbit: float) -> float:
    """The time that a full bucket's burst would take at the link's rate, in milliseconds.

    A full bucket lets this much pass at once. With this time added to the delay, transfers longer
    than the burst take exactly their time, and shorter ones slightly too long.
    """
    return 8 * burst_bytes(rate_kbit) / rate_kbit


def disciplines(link: Link, rate_kbit: float, netem: bool) -> list[list[str]]:
    """Arguments of `tc qdisc add dev ...` for one direction, in order."""
    bucket = ["tbf", "rate", f"{rate_kbit:g}kbit", "burst", f"{burst_bytes(rate_kbit)}b"]
    bucket += ["limit", f"{QUEUE_BYTES}b"]
    if not netem:
        return [["root", *bucket]]
    delay = f"{link.delay_ms + burst_ms(rate_kbit) + link.jitter_ms / 2:g}ms"
    emulator = ["netem", "limit", str(NETEM_PACKETS), "delay", delay]
    # netem spreads delays to both sides of the mean; the mean above is shifted by the same amount.
    emulator += [f"{link.jitter_ms / 2:g}ms"] if link.jitter_ms else []
    emulator += ["loss", f"{100 * link.loss:g}%"] if link.loss else []
    return [["root", "handle", "1:", *emulator], ["parent", "1:1", "handle", "10:", *bucket]]


def remove_stale() -> list[str]:
    """Remove namespaces whose owner is gone and end their processes; returns the names."""
    removed = []
    for line in _output("ip", "netns", "list").splitlines():
        name = line.split()[0] if line.split() else ""
        parts = name.removeprefix(f"{PREFIX}-").split("-")
        if not name.startswith(f"{PREFIX}-") or len(parts) != 4:
            continue
        owner, started, *_ = parts
        # The start time tells the owner from a later process that got the same id.
        if owner.isdigit() and _started(int(owner)) != started:
            _delete(name)
            removed.append(name)
    return removed


def _delete(name: str) -> None:
    """End the processes in a namespace and remove it; does nothing if it does not exist."""
    for pid in _output("ip", "netns", "pids", name).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _run("ip", "netns", "del", name, check=False)


def _started(pid: int) -> str:
    """The start time of a process in clock ticks since boot; empty if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The second field is the command in parentheses and may contain spaces: split behind it.
    return stat.rpartition(")")[2].split()[19]


def _run(*command: str, check: bool = True) -> bool:
    """Run a command and return whether it succeeded; with `check`, a failure is NotPermitted."""
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if check and completed.returncode:
        raise NotPermitted(
            f"expected to create and shape network namespaces, got from `{' '.join(command)}`: "
            f"{completed.stderr.strip()}; run as root on a machine with namespaces, veth and tbf, "
            "or do without them (namespaces: false)"
        )
    return completed.returncode == 0


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout


def _exit_on_sigterm() -> Any:
    """Let SIGTERM raise SystemExit, so that context managers exit; returns a function that undoes
    this."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # only the main thread may set signal handlers

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    return lambda: signal.signal(signal.SIGTERM, previous)
