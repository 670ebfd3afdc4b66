"""Network namespaces: made, shaped and removed where the system permits it, refused by name where
not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from benchmarks.links.namespaces import (
    PREFIX,
    Namespaces,
    NotPermitted,
    burst_bytes,
    burst_ms,
    disciplines,
    mtu,
    remove_stale,
)
from benchmarks.links.network import Network
from benchmarks.links.profiles import Link, sweep
from tests import commands

LINK = Link("one", 1000, 2000, delay_ms=20, jitter_ms=4, loss=0.01)
HOLD = (
    "import time\n"
    "from benchmarks.links.namespaces import Namespaces\n"
    "with Namespaces() as pair:\n"
    "    print(pair.edge, flush=True)\n"
    "    time.sleep(60)\n"
)


def permitted() -> bool:
    """May pairs be made here? Where not, the refusal has to say what to do."""
    with ExitStack() as stack:
        try:
            stack.enter_context(Namespaces())
        except NotPermitted as error:
            refusal = str(error)
        else:
            return True
    assert "run as root" in refusal or "install iproute2" in refusal
    return False


def named() -> set[str]:
    listed = commands.run(["ip", "netns", "list"], check=True)
    return {line.split()[0] for line in listed.stdout.splitlines() if line.startswith(PREFIX)}


def holder() -> tuple[subprocess.Popen[str], str]:
    """A process that holds a pair, and the edge's name."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_pair_is_made_shaped_and_removed_or_refused_by_name() -> None:
    if not permitted():
        return  # the refusal was looked at
    with Namespaces() as pair:
        assert {pair.edge, pair.cloud} <= named()
        added_ms = pair.shape(LINK)
        pair.shape(sweep([50], 10)[0])
        command = [*pair.inside(pair.edge), "tc", "qdisc", "show", "dev", "link0"]
        shown = commands.run(command, check=True).stdout
        assert "tbf" in shown
        assert "rate 50Kbit" in shown
        assert added_ms == (0.0 if pair.netem else LINK.delay_ms + burst_ms(LINK.up_kbit))
    assert not {pair.edge, pair.cloud} & named()


def test_sigterm_removes_the_pair() -> None:
    if not permitted():
        return
    process, edge = holder()
    assert edge in named()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    process.communicate()
    assert edge not in named()


def test_what_a_killed_owner_left_is_removed_by_the_next_and_nothing_else() -> None:
    if not permitted():
        return
    dead, edge = holder()
    inside = subprocess.Popen(["ip", "netns", "exec", edge, "sleep", "60"])
    alive, other = holder()
    try:
        deadline = time.monotonic() + 20
        while not _pids(edge) and time.monotonic() < deadline:
            time.sleep(0.05)
        dead.kill()
        dead.communicate()
        removed = remove_stale()
        assert edge in removed
        assert inside.wait(timeout=20) == -signal.SIGKILL
        assert edge not in named()
        assert other in named()
        assert other not in removed
    finally:
        alive.terminate()
        alive.communicate(timeout=30)


def _pids(name: str) -> list[str]:
    command = ["ip", "netns", "pids", name]
    return commands.run(command).stdout.split()


def test_without_permission_the_network_is_127_0_0_1_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", os.devnull)  # neither ip nor tc
    with pytest.raises(NotPermitted, match="expected the command ip, got none; install"):
        Namespaces().__enter__()
    with Network() as network:
        assert network.shaped_by.startswith("user space: bandwidth")
        assert "install iproute2" in network.why_not
        assert (network.edge_command, network.cloud_command) == ((), ())


def test_a_bucket_holds_one_packet_and_its_time_is_told() -> None:
    assert mtu(50) == 576
    assert mtu(1000) == 1250
    assert mtu(100_000) == 1500
    assert burst_bytes(50) == 590
    assert burst_ms(50) == pytest.approx(94.4)
    assert burst_bytes(100_000) == 12_500


def test_disciplines_for_kernels_with_and_without_netem() -> None:
    (bucket,) = disciplines(LINK, LINK.up_kbit, netem=False)
    assert bucket[:4] == ["root", "tbf", "rate", "1000kbit"]
    outer, inner = disciplines(LINK, LINK.up_kbit, netem=True)
    assert outer[:4] == ["root", "handle", "1:", "netem"]
    assert outer[-2:] == ["loss", "1%"]
    assert inner[:5] == ["parent", "1:1", "handle", "10:", "tbf"]
