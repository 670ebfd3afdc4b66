"""The edge as the measurement sees it: a process that it tells what to ask."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.harness.json_process import JsonProcess

SECONDS = 900.0
Sample = dict[str, Any]
"""Milliseconds by stage, to the first token and to the last; bytes and tokens."""


@dataclass(frozen=True)
class Task:
    """What the process is told: files, and what it asks. `real_bundle` is one of real dimensions,
    whose work is done in place of the bundle's."""

    bundle: str
    checkpoint: str
    question: str
    max_tokens: int
    quality: str | None = None
    real_bundle: str | None = None


class LinkedEdgeProcess(JsonProcess):
    """The process as the measurement sees it; a context manager.

    Args:
        task: what it is told.
        command: that starts it, such as `ip netns exec NAME`.
    """

    def __init__(self, task: Task, command: Sequence[str] = ()) -> None:
        module = [sys.executable, "-m", "benchmarks.end_to_end.edge_main", json.dumps(asdict(task))]
        super().__init__([*command, *module])

    def connect(self, targets: Mapping[str, str]) -> float:
        """Connect anew, by way; returns milliseconds of a small call's round trip."""
        return float(self.told({"connect": dict(targets)})["round_trip_ms"])

    def ask(self, way: str, picture: str) -> Sample:
        """One question.

        Raises:
            RuntimeError: the process ended; its words are on stderr.
        """
        return self.told({"way": way, "picture": picture})
