"""Two clouds that are killed and started again while two clients ask 200 questions each.

One client knows the first cloud alone, the other knows both. Each cloud is killed once (SIGKILL),
started again on its port, and must answer again before the next is killed. Every question must be
answered as without that, or fail with a clear error within its deadline; none may be answered
twice, which the logs of the clouds tell.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL.Image import Image

from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.errors import AlignedVQError
from aligned_vq.files.atomic_file import write_file
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.processes import CloudProcess
from edge_client import EdgeClient, EdgeConfig

CONFIG = EdgeConfig(
    connect_seconds=10, first_token_seconds=15, total_seconds=30, remembered_images=2
)
"""Few pictures are remembered: questions about those stay with the cloud that holds them."""
GRACE_SECONDS = 2.0
AT_ONCE = 4
"""Questions of each client."""
PICTURES = 12
RECOVERY_SECONDS = 120.0


@dataclass(frozen=True)
class Ask:
    """A question about a picture, and the answer to it."""

    image: Image
    text: str
    expected: str = ""


@dataclass(frozen=True)
class Ending:
    """What came of a question."""

    ask: Ask
    seconds: float
    answer: str | None = None
    error: AlignedVQError | None = None
    attempts: int = 1


class Killable:
    """A cloud process that can be killed and started again on its port."""

    def __init__(self, bundle: Path, model: Path, stack: ExitStack) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.target = f"127.0.0.1:{probe.getsockname()[1]}"
        self._command = (bundle, model, f"--port={self.target.rpartition(':')[2]}")
        self._stack = stack
        self.runs: list[CloudProcess] = []
        self.start()

    def start(self) -> None:
        """Start it, until it is healthy."""
        cloud = CloudProcess(*self._command, "--log_format=json")
        self.runs.append(self._stack.enter_context(cloud))

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.runs[-1].process.kill()
        self.runs[-1].process.wait()

    def answered(self, first_run: int = 0) -> Counter[str]:
        """Questions that it answered since a start, by request id."""
        lines = [line for run in self.runs[first_run:] for line in run.log.splitlines()]
        records = [json.loads(line) for line in lines if line.startswith("{")]
        return Counter(
            record["request_id"] for record in records if record.get("outcome") == "answered"
        )


class Asker:
    """A client that asks, some questions at a time, until it is told that it is enough."""

    def __init__(self, client: EdgeClient, asks: Sequence[Ask]) -> None:
        self._client, self._asks = client, asks
        self._enough = threading.Event()
        self._threads = ThreadPoolExecutor(AT_ONCE)
        self.endings: list[Ending] = []
        self._running = [self._threads.submit(self._go_on, number) for number in range(AT_ONCE)]

    def stop(self) -> list[Ending]:
        """What came of every question, each asked at least once."""
        self._enough.set()
        for running in self._running:
            running.result()
        self._threads.shutdown()
        return self.endings

    def _go_on(self, number: int) -> None:
        while number < len(self._asks) or not self._enough.is_set():
            self.endings.append(self._ask(self._asks[number % len(self._asks)]))
            number += AT_ONCE

    def _ask(self, ask: Ask) -> Ending:
        started = time.monotonic()
        try:
            answer = self._client.ask(ask.image, ask.text)
        except AlignedVQError as error:
            return Ending(ask, time.monotonic() - started, error=error)
        seconds = time.monotonic() - started
        return Ending(ask, seconds, str(answer), attempts=answer.details.attempts)


def disturb(clouds: Sequence[Killable], askers: Sequence[Asker]) -> None:
    """Kill each cloud under load, start it, and wait until it answers again.

    Raises:
        TimeoutError: nothing is asked or answered any more.
    """
    for cloud in clouds:
        for asker in askers:
            _wait(partial(_has_asked, asker, len(asker.endings) + 2 * AT_ONCE))
        cloud.kill()
        cloud.start()
        _wait(partial(cloud.answered, len(cloud.runs) - 1))


def storm(
    clouds: Sequence[Killable], clients: Mapping[str, EdgeClient], asks: Sequence[Ask]
) -> dict[str, list[Ending]]:
    """What came of every client's questions while each cloud is killed once."""
    askers = {name: Asker(client, asks) for name, client in clients.items()}
    try:
        disturb(clouds, list(askers.values()))
    finally:
        endings = {name: asker.stop() for name, asker in askers.items()}
    return endings


def answered_twice(clouds: Sequence[Killable]) -> int:
    """Questions that the clouds' logs call answered more than once."""
    answered: Counter[str] = sum((cloud.answered() for cloud in clouds), Counter())
    return sum(count > 1 for count in answered.values())


def figures(endings: Sequence[Ending]) -> dict[str, Any]:
    """What came of a client's questions."""
    answered = [ending for ending in endings if ending.answer is not None]
    return {
        "asked": len(endings),
        "answered": len(answered),
        "failed": dict(Counter(type(each.error).__name__ for each in endings if each.error)),
        "answered_otherwise": sum(each.answer != each.ask.expected for each in answered),
        "asked_again": sum(each.attempts > 1 for each in answered),
        "longest_seconds": round(max(each.seconds for each in endings), 2),
        "deadline_seconds": CONFIG.total_seconds,
    }


def with_answers(client: EdgeClient, asks: Sequence[Ask]) -> list[Ask]:
    """The same questions with the answers of a cloud that nothing happens to."""
    return [Ask(each.image, each.text, str(client.ask(each.image, each.text))) for each in asks]


@contextmanager
def two_clients(
    clouds: Sequence[Killable], bundle: Path, config: EdgeConfig = CONFIG
) -> Iterator[dict[str, EdgeClient]]:
    """One that knows the first cloud alone, one that knows all."""
    targets = [cloud.target for cloud in clouds]
    with (
        EdgeClient(targets[0], bundle, config) as lone,
        EdgeClient(targets, bundle, config) as free,
    ):
        yield {"one cloud": lone, "two clouds": free}


def _has_asked(asker: Asker, count: int) -> bool:
    return len(asker.endings) >= count


def _wait(done: Callable[[], object]) -> None:
    end = time.monotonic() + RECOVERY_SECONDS
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing came of it in {RECOVERY_SECONDS:.0f} seconds: {done}")
        time.sleep(0.2)


def main() -> int:
    """Print what came of all questions; exits with 1 for a wrong, late or repeated answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    images = list(exam_images(PICTURES * 8))[:PICTURES]
    own = [Ask(image.image, text.text) for image in images for text in image.questions]
    with ExitStack() as stack:
        clouds = [Killable(BUNDLE, CHECKPOINT, stack) for _ in range(2)]
        clients = stack.enter_context(two_clients(clouds, BUNDLE))
        known = with_answers(clients["one cloud"], own)
        asks = [known[number % len(known)] for number in range(options.questions)]
        ended = storm(clouds, clients, asks)
        twice = answered_twice(clouds)
    rows = {name: figures(endings) for name, endings in ended.items()}
    text = json.dumps(rows | {"answered_twice": twice}, indent=2)
    print(text)
    for endings in ended.values():
        for words in sorted({str(each.error) for each in endings if each.error})[:3]:
            print(f"  {words}")
    if options.out:
        write_file(options.out, text + "\n")
    late = CONFIG.total_seconds + GRACE_SECONDS
    bad = any(row["answered_otherwise"] or row["longest_seconds"] > late for row in rows.values())
    return 1 if bad or twice else 0


if __name__ == "__main__":
    sys.exit(main())
