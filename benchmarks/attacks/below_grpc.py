"""Hostile bytes below gRPC against a service with TLS, while good questions are asked.

The service has to stay up with bounded memory and log; every good question has to be answered
correctly within seconds; no call may end with a status that indicates a bug in the service. Exits
with 1 if one of these targets is missed.
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

from aligned_vq.files.atomic_file import write_json
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.attacks.peers.broken_frames import KINDS, RECORDS
from benchmarks.attacks.peers.frames import call_ends
from benchmarks.harness.load import clients
from benchmarks.harness.processes import CloudProcess
from benchmarks.robustness.fuzz import outcome
from benchmarks.robustness.mutations import Messages, serialised
from cloud_server.certificates import issuing

MAX_SECONDS = 5.0
MAX_MEMORY_RATIO = 1.2
MAX_LOG_BYTES = 100_000
CONCURRENCY = 8
READ_SECONDS = 0.3
MAX_READ_BYTES = 1 << 20


@dataclass
class Observations:
    """How hostile calls ended, and how good questions were answered."""

    ended: Counter[str] = field(default_factory=Counter)
    """Number of calls by kind of attack, status and the named error of the service."""
    bugs: list[str] = field(default_factory=list)
    good_seconds: list[float] = field(default_factory=list)
    lost: int = 0


class Service:
    """Opens connections to the service under attack.

    Args:
        target: HOST:PORT of the service.
        authority: PEM file of the certificate authority to trust.
    """

    def __init__(self, target: str, authority: Path) -> None:
        host, port = target.split(":")
        self.address = (host, int(port))
        self.target = f"localhost:{port}"
        self.authority = authority.read_bytes()
        self._context = ssl.create_default_context(cafile=str(authority))
        # TLS negotiates HTTP/2 by ALPN; gRPC speaks nothing else.
        self._context.set_alpn_protocols(["h2"])

    def channel(self) -> grpc.Channel:
        """A channel for good questions."""
        return grpc.secure_channel(self.target, grpc.ssl_channel_credentials(self.authority))

    @contextlib.contextmanager
    def connection(self, plain: bool) -> Iterator[socket.socket]:
        """A TCP connection, with TLS unless `plain`."""
        with socket.create_connection(self.address, timeout=10) as raw:
            if plain:
                yield raw
                return
            with self._context.wrap_socket(raw, server_hostname="localhost") as secured:
                yield secured


def attack(service: Service, kind: str, seed: list[int], question: bytes) -> bytes:
    """Send the bytes of one connection; returns the response until silence or disconnection."""
    response = b""
    with contextlib.suppress(OSError), service.connection(kind in RECORDS) as connection:
        # The service may close the connection early and still have sent a response.
        with contextlib.suppress(OSError):
            for chunk in KINDS[kind](np.random.default_rng(seed), question):
                connection.sendall(chunk)
        connection.settimeout(READ_SECONDS)
        while len(response) < MAX_READ_BYTES and (more := connection.recv(65_536)):
            response += more
    return response


def judge(observations: Observations, kind: str, number: int, response: bytes) -> None:
    """Count how the calls of one connection ended."""
    try:
        for end in call_ends(response):
            observations.ended[f"{kind} {end.status} {end.error or 'of gRPC'}"] += 1
            if end.is_bug:
                observations.bugs.append(f"{kind} {number}: {end.status} {end.message[:80]}")
    except hpack.HPACKError:  # a response cut off at MAX_READ_BYTES
        observations.ended[f"{kind} unreadable"] += 1


def ask_repeatedly(
    service: Service, good: Messages, observations: Observations, stop: threading.Event
) -> None:
    """Ask good questions one after the other, with a new connection after every three."""
    expected = None
    while not stop.is_set():
        with service.channel() as channel:
            for _ in range(3):
                started = time.perf_counter()
                result = outcome(channel, good)
                observations.good_seconds.append(time.perf_counter() - started)
                # The first answer is the reference; the question is decoded greedily.
                expected = expected or result
                observations.lost += result != expected or result[0] != "answered"
                stop.wait(0.1)


def run(cloud: CloudProcess, authority: Path, options: argparse.Namespace) -> Observations:
    """Attack until the time is over or the number of connections is reached."""
    service, observations, stop = (
        Service(cloud.target, authority),
        Observations(),
        threading.Event(),
    )
    good = serialised(clients(1, 1)[0].payload, "How many objects are there?")
    kinds = options.kinds or list(KINDS)
    good_client = threading.Thread(target=ask_repeatedly, args=(service, good, observations, stop))
    good_client.start()
    deadline = time.monotonic() + options.seconds
    number = 0
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        # In batches, so that the deadline is checked while the pool stays busy.
        while number < options.count and time.monotonic() < deadline:
            batch = [(kinds[at % len(kinds)], at) for at in range(number, number + 2 * CONCURRENCY)]
            number += len(batch)
            # A seed for each connection, so that one can be repeated alone.
            responses = pool.map(
                lambda case: attack(service, case[0], [options.seed, case[1]], good[0]), batch
            )
            for (kind, at), response in zip(batch, responses, strict=True):
                judge(observations, kind, at, response)
    stop.set()
    good_client.join()
    observations.ended["connections"] = number
    return observations


def main() -> int:
    """Print the observations and the targets; exits with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--count", type=int, default=1_000_000, help="connections at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, help="all of them by default")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        issuing.make(Path(folder), None, [])
        tls = (f"--tls_certificate={folder}/server.pem", f"--tls_key={folder}/server-key.pem")
        with CloudProcess(BUNDLE, CHECKPOINT, *tls) as cloud:
            # Warm up first: memory is compared with that of a service that has been under attack.
            run(
                cloud,
                Path(folder) / "ca.pem",
                argparse.Namespace(**{**vars(options), "seconds": 5}),
            )
            before, log_before = cloud.resident_bytes(), len(cloud.log)
            observations = run(cloud, Path(folder) / "ca.pem", options)
            alive, after = cloud.process.poll() is None, cloud.resident_bytes()
            log = cloud.log[log_before:]
    figures = {
        "connections": observations.ended.pop("connections"),
        "alive": alive,
        "good questions": len(observations.good_seconds),
        "lost": observations.lost,
        "worst good seconds": round(max(observations.good_seconds), 2),
        "memory ratio": round(after / before, 3),
        "log bytes": len(log),
        "tracebacks": log.count("Traceback"),
        "bugs": observations.bugs[:20],
        "statuses": dict(sorted(observations.ended.items())),
    }
    print(json.dumps(figures, indent=2))
    if options.out:
        write_json(options.out, figures)
    targets = {
        "alive": alive,
        "no good question lost": not observations.lost,
        f"worst good question <= {MAX_SECONDS:g} s": max(observations.good_seconds) <= MAX_SECONDS,
        f"memory <= {MAX_MEMORY_RATIO:g} of before": after <= MAX_MEMORY_RATIO * before,
        f"log <= {MAX_LOG_BYTES} B": len(log) <= MAX_LOG_BYTES,
        "no bug, no traceback": not observations.bugs and "Traceback" not in log,
    }
    for target, met in targets.items():
        print(f"{'ok    ' if met else 'MISSED'} {target}")
    return 0 if all(targets.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
