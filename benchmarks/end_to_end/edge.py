"""The edge process as the measurement sees it: requests in, timed samples out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.harness.json_process import JsonProcess

TIMEOUT_SECONDS = 900.0
Sample = dict[str, Any]
"""One question: milliseconds by stage, to the first and to the last token; bytes; tokens."""


@dataclass(frozen=True)
class EdgeTask:
    """Files and question of an edge process.

    Args:
        bundle: directory of the bundle that both clouds serve.
        checkpoint: directory of the checkpoint, for the whole model on the edge.
        question: asked about every image.
        max_tokens: limit of an answer.
        quality: operating point; None: the bundle's default.
        real_bundle: a bundle of real dimensions that the edge encodes with in place of `bundle`.
    """

    bundle: str
    checkpoint: str
    question: str
    max_tokens: int
    quality: str | None = None
    real_bundle: str | None = None


class LinkedEdgeProcess(JsonProcess):
    """Starts `edge_main` and sends it requests; a context manager.

    Args:
        task: its files and question.
        command: a command that starts it, such as `ip netns exec NAME`.
    """

    def __init__(self, task: EdgeTask, command: Sequence[str] = ()) -> None:
        module = [sys.executable, "-m", "benchmarks.end_to_end.edge_main", json.dumps(asdict(task))]
        super().__init__([*command, *module])

    def connect(self, targets: Mapping[str, str]) -> float:
        """Open new connections; returns the milliseconds of a small call's round trip.

        Args:
            targets: address of the cloud of each way.

        Raises:
            RuntimeError: the process ended; the cause is on stderr.
        """
        return float(self.request({"connect": dict(targets)})["round_trip_ms"])

    def ask(self, way: str, image_name: str) -> Sample:
        """Ask one question about an image, in one of `settings.WAYS`.

        Raises:
            RuntimeError: the process ended; the cause is on stderr.
        """
        return self.request({"way": way, "image_name": image_name})
