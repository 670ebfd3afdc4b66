"""Commands that tests run to their end."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

STDERR: list[str] = []
"""What each command of this process wrote to stderr; `tests.log_search` reads it."""


def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command with both streams as text; a failure is in its exit status.

    Args:
        command: the program and its arguments.
        options: of `subprocess.run`, such as `env`, `timeout` in seconds and `check`.
    """
    merged = {"capture_output": True, "text": True, "check": False, **options}
    done: subprocess.CompletedProcess[str] = subprocess.run(command, **merged)
    STDERR.append(done.stderr)
    return done
