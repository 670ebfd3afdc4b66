"""Requests to a child process: one line of JSON to its input, one line back from its output."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any, Self


class JsonProcess:
    """Starts the process and sends it requests; a context manager.

    Args:
        command: the command line that starts it.
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
        self._process.communicate(timeout=60)  # closes its input, which makes it exit

    def request(self, message: Any) -> dict[str, Any]:
        """Send one message, which JSON can represent, and return the response.

        Raises:
            RuntimeError: the process ended; the cause is on stderr.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            # A process that ended gives an empty line, which is not JSON: a ValueError.
            response: dict[str, Any] = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, ValueError) as error:
            raise RuntimeError(
                f"expected a response from `{' '.join(self._command)}`, got its end; its error "
                "output is above"
            ) from error
        return response
