"""Probes a server's health endpoint 20 times a second over one connection, until stdin closes.

A separate process, so that no other work of a benchmark delays it. After each answer it measures
how late it wakes from a short sleep, which shows the delay that the machine itself adds.

    python -m benchmarks.attacks.peers.health_probe PORT
"""

from __future__ import annotations

import http.client
import json
import select
import subprocess
import sys
import time
from typing import NamedTuple, Self

PROBES_PER_SECOND = 20
_SLEEP_SECONDS = 0.002


class Health(NamedTuple):
    """Seconds of every probe: `answers`, the time to the answer; `lags`, the late wake-up."""

    answers: list[float]
    lags: list[float]


class HealthProbe:
    """Runs the probing process while entered; on exit `health` holds its measurements.

    Args:
        port: port of the server on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(self._port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(self, *_: object) -> None:
        output, _errors = self._process.communicate(timeout=90)  # closes its input, which stops it
        self.health = Health(**json.loads(output))


def main() -> int:
    """Probe until stdin closes, then print the measurements as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
    answers, lags = [], []
    # The pause between two probes, which ends when stdin closes.
    while not select.select([sys.stdin], [], [], 1 / PROBES_PER_SECOND)[0]:
        started = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        answers.append(time.perf_counter() - started)
        started = time.perf_counter()
        time.sleep(_SLEEP_SECONDS)
        lags.append(time.perf_counter() - started - _SLEEP_SECONDS)
    json.dump({"answers": answers, "lags": lags}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
