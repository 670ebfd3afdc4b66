"""What good clients see while a gateway is attacked: their questions, and its memory."""

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


def question(model: str, words: str, image: bytes | None = None) -> bytes:
    """A request's body."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": words}]
    if image is not None:
        url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    messages = [{"role": "user", "content": parts}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": 8}).encode()


def asked(port: int, path: str, body: bytes | None = None) -> tuple[int, float, str]:
    """Status (0: none came), seconds, and the error's code."""
    began, code = time.perf_counter(), ""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        headers = {"Content-Type": "application/json"} if body else {}
        with suppress(ConnectionError):  # an answer may come before all was sent
            connection.request("POST" if body else "GET", path, body, headers)
        response = connection.getresponse()
        read = response.read()
        if response.status >= 400:
            with suppress(ValueError, KeyError, TypeError):
                code = json.loads(read)["error"]["code"]
        return response.status, time.perf_counter() - began, code
    except (OSError, http.client.HTTPException):
        return 0, time.perf_counter() - began, "no answer"
    finally:
        connection.close()


class Bystander:
    """Does something again and again in a thread of its own, and keeps what it saw.

    Args:
        see: gives one observation.
        pause_seconds: between them.
    """

    def __init__(self, see: Callable[[], Any], pause_seconds: float) -> None:
        self._see = see
        self._pause_seconds = pause_seconds
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: list[Any] = []

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._left.wait(self._pause_seconds):
            with suppress(OSError):
                self.seen.append(self._see())


def family(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                stat = (entry / "stat").read_text()
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(
                    int(entry.name)
                )
    found = [pid]
    for own in found:
        found += children.get(own, [])
    return found


def memory_bytes(pid: int) -> int:
    """Of a process and all below it; what several share counts once (PSS)."""
    total = 0
    for own in family(pid):
        with suppress(OSError):
            for line in Path(f"/proc/{own}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += 1024 * int(line.split()[1])
    return total
