"""A process that answers every line of JSON on its input with one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any, Self


class JsonProcess:
    """The process as its user sees it; a context manager.

    Args:
        command: that starts it.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate(timeout=60)  # closes its input, which ends it

    def told(self, said: Any) -> dict[str, Any]:
        """What it answers.

        Raises:
            RuntimeError: it ended; its words are on stderr.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(said) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, ValueError) as error:
            raise RuntimeError(f"{' '.join(self._command)} ended: see above") from error
        return answer
