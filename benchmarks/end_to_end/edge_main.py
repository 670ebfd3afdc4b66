"""The edge as a separate process, so that it can run in its network namespace.

python -m benchmarks.end_to_end.edge_main '{"bundle": ..., ...}' answers every line of JSON on
standard input with one line: `connect` opens connections to the clouds through a link, and `way`
asks a question. Neither the edge nor the clouds cache images, so every question is about a new one.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping

from benchmarks.end_to_end.camera_images import camera_image
from benchmarks.end_to_end.edge import TIMEOUT_SECONDS, EdgeTask, Sample
from benchmarks.end_to_end.measured_client import MeasuredClient
from benchmarks.end_to_end.settings import EDGE_ONLY, SPLIT
from benchmarks.end_to_end.unsplit_model import UnsplitModel
from edge_client.connection.transport import GrpcTransport

ROUND_TRIPS = 5


class Edge:
    """A client for each cloud, and the unsplit model, loaded at the first question to it."""

    def __init__(self, task: EdgeTask) -> None:
        self._task = task
        self._clients: dict[str, MeasuredClient] = {}
        self._unsplit: UnsplitModel | None = None

    def connect(self, targets: Mapping[str, str]) -> Sample:
        """See `LinkedEdgeProcess.connect`."""
        for client in self._clients.values():
            client.close()
        self._clients = {way: MeasuredClient(self._task, target) for way, target in targets.items()}
        probe = GrpcTransport(next(iter(targets.values())))
        # Before the clock starts: a handshake takes several round trips.
        probe.connect(TIMEOUT_SECONDS)
        # A health check carries almost no data: its time is the link's delay in both directions.
        round_trips_ms = []
        for _ in range(ROUND_TRIPS):
            started = time.perf_counter()
            probe.check_health(TIMEOUT_SECONDS)
            round_trips_ms.append(1e3 * (time.perf_counter() - started))
        probe.close()
        return {"round_trip_ms": statistics.median(round_trips_ms)}

    def ask(self, way: str, image_name: str) -> Sample:
        """See `LinkedEdgeProcess.ask`."""
        image = camera_image(image_name).image
        if way == EDGE_ONLY:
            self._unsplit = self._unsplit or UnsplitModel(self._task)
            return self._unsplit.ask(image)
        client = self._clients[way]
        return client.split(image) if way == SPLIT else client.cloud_only(image)


def main(task: str) -> None:
    """Answer every line on stdin; `task` is an `EdgeTask` as JSON."""
    edge = Edge(EdgeTask(**json.loads(task)))
    for line in sys.stdin:
        request = json.loads(line)
        targets = request.get("connect")
        response = edge.connect(targets) if targets is not None else edge.ask(**request)
        # Flushed: the parent waits for this line.
        print(json.dumps(response), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
