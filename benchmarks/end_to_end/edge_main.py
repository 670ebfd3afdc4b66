"""The edge's side, a process of its own, so that it can run in a namespace of its own.

python -m benchmarks.end_to_end.edge_main '{"bundle": ..., ...}' answers every line of JSON on its
input with one: `connect` to the clouds through a link, or ask in one `way`. Nothing is remembered
between questions, neither here nor in the clouds, so that each is about a new picture.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping

from benchmarks.end_to_end.asking import MeasuredClient
from benchmarks.end_to_end.edge import SECONDS, Sample, Task
from benchmarks.end_to_end.pictures import frame
from benchmarks.end_to_end.settings import EDGE_ONLY, SPLIT
from benchmarks.end_to_end.whole import WholeModel
from edge_client.connection.transport import GrpcTransport

ROUND_TRIPS = 5


class Edge:
    """All ways of asking; what each needs is loaded at its first question."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._asking: dict[str, MeasuredClient] = {}
        self._whole: WholeModel | None = None

    def connect(self, targets: Mapping[str, str]) -> Sample:
        """See `EdgeProcess.connect`."""
        for asking in self._asking.values():
            asking.close()
        self._asking = {way: MeasuredClient(self._task, target) for way, target in targets.items()}
        probe = GrpcTransport(next(iter(targets.values())))
        probe.connect(SECONDS)
        spent_ms = []
        for _ in range(ROUND_TRIPS):
            began = time.perf_counter()
            probe.check_health(SECONDS)
            spent_ms.append(1e3 * (time.perf_counter() - began))
        probe.close()
        return {"round_trip_ms": statistics.median(spent_ms)}

    def ask(self, way: str, picture: str) -> Sample:
        """See `EdgeProcess.ask`."""
        image = frame(picture).image
        if way == EDGE_ONLY:
            self._whole = self._whole or WholeModel(self._task)
            return self._whole.ask(image)
        asking = self._asking[way]
        return asking.split(image) if way == SPLIT else asking.cloud_only(image)


def main(task: str) -> None:
    """Answer every line on stdin."""
    edge = Edge(Task(**json.loads(task)))
    for line in sys.stdin:
        said = json.loads(line)
        told = edge.connect(said["connect"]) if "connect" in said else edge.ask(**said)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
