"""Asks a server for its health 20 times a second over one connection, until standard input ends.

A process of its own, so that no other work of a benchmark delays it. Beside each answer it takes
the time to wake from a short sleep, which tells what the machine itself adds.

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
    """Seconds, of every probe."""

    answers: list[float]
    lags: list[float]


class HealthProbe:
    """The process, while entered; `health` is what it saw.

    Args:
        port: of the server on 127.0.0.1.
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
        written, _errors = self._process.communicate(timeout=90)
        self.health = Health(**json.loads(written))


def main() -> int:
    """Print what was seen as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
    answers, lags = [], []
    while not select.select([sys.stdin], [], [], 1 / PROBES_PER_SECOND)[0]:
        began = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        answers.append(time.perf_counter() - began)
        began = time.perf_counter()
        time.sleep(_SLEEP_SECONDS)
        lags.append(time.perf_counter() - began - _SLEEP_SECONDS)
    json.dump({"answers": answers, "lags": lags}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
