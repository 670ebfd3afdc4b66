"""The edge as the measurement sees it: a process that it tells what to ask."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

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


class EdgeProcess:
    """The process as the measurement sees it; a context manager.

    Args:
        task: what it is told.
        command: that starts it, such as `ip netns exec NAME`.
    """

    def __init__(self, task: Task, command: Sequence[str] = ()) -> None:
        module = [sys.executable, "-m", "benchmarks.end_to_end.edge_main", json.dumps(asdict(task))]
        self._command = [*command, *module]

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate(timeout=60)  # closes its input, which ends it

    def connect(self, targets: Mapping[str, str]) -> float:
        """Connect anew, by way; returns milliseconds of a small call's round trip."""
        return float(self._call(connect=dict(targets))["round_trip_ms"])

    def ask(self, way: str, picture: str) -> Sample:
        """One question.

        Raises:
            RuntimeError: the process ended; its words are on stderr.
        """
        return self._call(way=way, picture=picture)

    def _call(self, **said: Any) -> Sample:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(said) + "\n")
            self._process.stdin.flush()
            told: Sample = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, ValueError) as error:
            raise RuntimeError("the edge's process ended: see above") from error
        return told
