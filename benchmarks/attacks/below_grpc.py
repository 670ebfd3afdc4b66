"""Hostile bytes below gRPC against a service with TLS, while good questions are asked.

The service has to stay up and keep its memory and its log small; every good question is answered
right within seconds; no call ends with a status that stands for a bug of ours. Exits with 1 where
one of these does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import hpack
import numpy as np

from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.attacks.peers.broken_frames import KINDS, RECORDS
from benchmarks.attacks.peers.frames import ends
from benchmarks.harness.load import clients
from benchmarks.harness.processes import CloudProcess
from benchmarks.robustness.fuzz import outcome
from benchmarks.robustness.mutations import Messages, whole
from cloud_server.certificates import issuing

MOST_SECONDS = 5.0
MOST_MEMORY = 1.2
MOST_LOG_BYTES = 100_000
AT_ONCE = 8
READ_SECONDS = 0.3
MOST_READ_BYTES = 1 << 20


@dataclass
class Observations:
    """What came of it."""

    ended: Counter[str] = field(default_factory=Counter)
    """Calls by kind, status and the error of ours that was named."""
    bugs: list[str] = field(default_factory=list)
    good_seconds: list[float] = field(default_factory=list)
    lost: int = 0


class Service:
    """Where it listens, and whom to trust."""

    def __init__(self, target: str, authority: Path) -> None:
        host, port = target.split(":")
        self.address = (host, int(port))
        self.target = f"localhost:{port}"
        self.authority = authority.read_bytes()
        self._context = ssl.create_default_context(cafile=str(authority))
        self._context.set_alpn_protocols(["h2"])

    def channel(self) -> grpc.Channel:
        """For good questions."""
        return grpc.secure_channel(self.target, grpc.ssl_channel_credentials(self.authority))

    @contextlib.contextmanager
    def connection(self, plain: bool) -> Iterator[socket.socket]:
        """A connection, with TLS unless `plain`."""
        with socket.create_connection(self.address, timeout=10) as raw:
            if plain:
                yield raw
                return
            with self._context.wrap_socket(raw, server_hostname="localhost") as secured:
                yield secured


def attack(service: Service, kind: str, seed: list[int], question: bytes) -> bytes:
    """Send one connection's bytes; what came back until the service fell silent or hung up."""
    found = b""
    with contextlib.suppress(OSError), service.connection(kind in RECORDS) as connection:
        with contextlib.suppress(OSError):  # closed on us: there may be an answer all the same
            for chunk in KINDS[kind](np.random.default_rng(seed), question):
                connection.sendall(chunk)
        connection.settimeout(READ_SECONDS)
        while len(found) < MOST_READ_BYTES and (more := connection.recv(65_536)):
            found += more
    return found


def judge(seen: Observations, kind: str, number: int, answer: bytes) -> None:
    """Count how calls ended."""
    try:
        for end in ends(answer):
            seen.ended[f"{kind} {end.status} {end.error or 'of gRPC'}"] += 1
            if end.is_bug:
                seen.bugs.append(f"{kind} {number}: {end.status} {end.words[:80]}")
    except hpack.HPACKError:  # cut off by the attacker's own limit
        seen.ended[f"{kind} unreadable"] += 1


def ask_on(service: Service, good: Messages, seen: Observations, stop: threading.Event) -> None:
    """Good questions, one after the other, each over a connection of its own at every third."""
    expected = None
    while not stop.is_set():
        with service.channel() as channel:
            for _ in range(3):
                started = time.perf_counter()
                found = outcome(channel, good)
                seen.good_seconds.append(time.perf_counter() - started)
                expected = expected or found
                seen.lost += found != expected or found[0] != "answered"
                stop.wait(0.1)


def run(cloud: CloudProcess, authority: Path, options: argparse.Namespace) -> Observations:
    """Attack until the time or the count is over."""
    service, seen, stop = Service(cloud.target, authority), Observations(), threading.Event()
    good = whole(clients(1, 1)[0].payload, "How many objects are there?")
    kinds = options.kinds or list(KINDS)
    asking = threading.Thread(target=ask_on, args=(service, good, seen, stop))
    asking.start()
    deadline = time.monotonic() + options.seconds
    number = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while number < options.count and time.monotonic() < deadline:
            batch = [(kinds[at % len(kinds)], at) for at in range(number, number + 2 * AT_ONCE)]
            number += len(batch)
            for (kind, at), answer in zip(
                batch,
                pool.map(
                    lambda own: attack(service, own[0], [options.seed, own[1]], good[0]), batch
                ),
                strict=True,
            ):
                judge(seen, kind, at, answer)
    stop.set()
    asking.join()
    seen.ended["connections"] = number
    return seen


def main() -> int:
    """Print what came of it beside what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--count", type=int, default=1_000_000, help="connections at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, help="all of them by default")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        issuing.make(Path(folder), None, [])
        own = (f"--tls_certificate={folder}/server.pem", f"--tls_key={folder}/server-key.pem")
        with CloudProcess(BUNDLE, CHECKPOINT, *own) as cloud:
            run(
                cloud,
                Path(folder) / "ca.pem",
                argparse.Namespace(**{**vars(options), "seconds": 5}),
            )
            before, log_before = cloud.resident_bytes(), len(cloud.log)
            seen = run(cloud, Path(folder) / "ca.pem", options)
            alive, after = cloud.process.poll() is None, cloud.resident_bytes()
            log = cloud.log[log_before:]
    figures = {
        "connections": seen.ended.pop("connections"),
        "alive": alive,
        "good questions": len(seen.good_seconds),
        "lost": seen.lost,
        "worst good seconds": round(max(seen.good_seconds), 2),
        "memory ratio": round(after / before, 3),
        "log bytes": len(log),
        "tracebacks": log.count("Traceback"),
        "bugs": seen.bugs[:20],
        "statuses": dict(sorted(seen.ended.items())),
    }
    print(json.dumps(figures, indent=2))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    held = {
        "alive": alive,
        "no good question lost": not seen.lost,
        f"worst good question <= {MOST_SECONDS:g} s": max(seen.good_seconds) <= MOST_SECONDS,
        f"memory <= {MOST_MEMORY:g} of before": after <= MOST_MEMORY * before,
        f"log <= {MOST_LOG_BYTES} B": len(log) <= MOST_LOG_BYTES,
        "no bug, no traceback": not seen.bugs and "Traceback" not in log,
    }
    for words, holds in held.items():
        print(f"{'ok    ' if holds else 'MISSED'} {words}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
