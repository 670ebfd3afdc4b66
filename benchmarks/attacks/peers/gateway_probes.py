"""Probes of a gateway under attack: timed requests, and the memory of its processes."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_TIMEOUT_SECONDS = 60


def chat_body(model: str, text: str, image: bytes | None = None) -> bytes:
    """The body of a chat request with a question, and a PNG file as the image if given."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if image is not None:
        url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    messages = [{"role": "user", "content": parts}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": 8}).encode()


def timed_request(port: int, path: str, body: bytes | None = None) -> tuple[int, float, str]:
    """Send a request (POST with a body, else GET) and return status, seconds and error code.

    The status is 0 if no response came.
    """
    started, code = time.perf_counter(), ""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        headers = {"Content-Type": "application/json"} if body else {}
        with suppress(ConnectionError):  # a response may come before the whole body was sent
            connection.request("POST" if body else "GET", path, body, headers)
        response = connection.getresponse()
        content = response.read()
        if response.status >= 400:
            with suppress(ValueError, KeyError, TypeError):
                code = json.loads(content)["error"]["code"]
        return response.status, time.perf_counter() - started, code
    except (OSError, http.client.HTTPException):
        return 0, time.perf_counter() - started, "no answer"
    finally:
        connection.close()


class PeriodicProbe:
    """Collects samples in a background thread while entered; `samples` holds them.

    Args:
        probe: returns one sample; samples that raise OSError are left out.
        pause_seconds: pause between two samples.
    """

    def __init__(self, probe: Callable[[], Any], pause_seconds: float) -> None:
        self._probe = probe
        self._pause_seconds = pause_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[Any] = []

    def __enter__(self) -> PeriodicProbe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._pause_seconds):
            with suppress(OSError):
                self.samples.append(self._probe())


def process_tree(pid: int) -> list[int]:
    """The ids of a process and of all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                stat = (entry / "stat").read_text()
                # Behind the command in parentheses, which may contain spaces: state, parent.
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(
                    int(entry.name)
                )
    pids = [pid]
    for parent in pids:  # grows while it is iterated, level by level
        pids += children.get(parent, [])
    return pids


def memory_bytes(pid: int) -> int:
    """The memory of a process and its descendants, with shared pages counted once (PSS)."""
    total = 0
    for member in process_tree(pid):
        with suppress(OSError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    # The kernel's kB have 1,024 bytes.
                    total += 1024 * int(line.split()[1])
    return total
