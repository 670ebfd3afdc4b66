"""Two clouds that are killed and restarted while two clients ask 200 questions each.

One client has the first cloud as its only target, the other has both. Each cloud is killed once
(SIGKILL), restarted on its port, and has to answer again before the next is killed. Every question
has to be answered as without restarts, or to fail with a clear error within its deadline. None may
be answered twice according to the logs of the clouds.
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
"""With few remembered images, because questions about them stay with the cloud that caches them."""
GRACE_SECONDS = 2.0
CONCURRENCY = 4
"""Concurrent questions of each client."""
IMAGES = 12
RECOVERY_SECONDS = 120.0


@dataclass(frozen=True)
class ExpectedAnswer:
    """A question about an image, and the expected answer."""

    image: Image
    text: str
    expected: str = ""


@dataclass(frozen=True)
class QuestionResult:
    """The answer to a question, or the error."""

    case: ExpectedAnswer
    seconds: float
    answer: str | None = None
    error: AlignedVQError | None = None
    attempts: int = 1


class RestartableCloud:
    """A cloud process that can be killed and restarted on the same port.

    Args:
        bundle: directory of the bundle.
        model: directory of the checkpoint.
        stack: ends the processes.
    """

    def __init__(self, bundle: Path, model: Path, stack: ExitStack) -> None:
        # A fixed port, so that clients find the restarted process under the same address.
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.target = f"127.0.0.1:{probe.getsockname()[1]}"
        self._command = (bundle, model, f"--port={self.target.rpartition(':')[2]}")
        self._stack = stack
        self.runs: list[CloudProcess] = []
        self.start()

    def start(self) -> None:
        """Start the process and wait until it serves."""
        cloud = CloudProcess(*self._command, "--log_format=json")
        self.runs.append(self._stack.enter_context(cloud))

    def kill(self) -> None:
        """Send SIGKILL and wait for the end of the process."""
        self.runs[-1].process.kill()
        self.runs[-1].process.wait()

    def answered(self, first_run: int = 0) -> Counter[str]:
        """Number of answers by request id, since start number `first_run`, according to the log."""
        # gRPC and others write lines to stderr that are not JSON.
        lines = [line for run in self.runs[first_run:] for line in run.log.splitlines()]
        records = [json.loads(line) for line in lines if line.startswith("{")]
        return Counter(
            record["request_id"] for record in records if record.get("outcome") == "answered"
        )


class BackgroundClient:
    """A client that asks several questions at a time in the background, until `stop`."""

    def __init__(self, client: EdgeClient, cases: Sequence[ExpectedAnswer]) -> None:
        self._client, self._cases = client, cases
        self._stopping = threading.Event()
        self._threads = ThreadPoolExecutor(CONCURRENCY)
        self.results: list[QuestionResult] = []
        self._running = [
            self._threads.submit(self._ask_repeatedly, number) for number in range(CONCURRENCY)
        ]

    def stop(self) -> list[QuestionResult]:
        """Stop once every question has been asked; returns the results of all questions."""
        self._stopping.set()
        for running in self._running:
            running.result()
        self._threads.shutdown()
        return self.results

    def _ask_repeatedly(self, number: int) -> None:
        while number < len(self._cases) or not self._stopping.is_set():
            self.results.append(self._ask(self._cases[number % len(self._cases)]))
            # The threads share the questions: each takes every CONCURRENCY-th one.
            number += CONCURRENCY

    def _ask(self, case: ExpectedAnswer) -> QuestionResult:
        started = time.monotonic()
        try:
            answer = self._client.ask(case.image, case.text)
        except AlignedVQError as error:
            return QuestionResult(case, time.monotonic() - started, error=error)
        seconds = time.monotonic() - started
        return QuestionResult(case, seconds, str(answer), attempts=answer.details.attempts)


def restart_each(clouds: Sequence[RestartableCloud], clients: Sequence[BackgroundClient]) -> None:
    """Kill each cloud under load, restart it, and wait until it answers again.

    Raises:
        TimeoutError: clients get no results, or a cloud does not answer after its restart.
    """
    for cloud in clouds:
        # Only kill a cloud while every client has questions in flight and gets results.
        for client in clients:
            _wait(partial(_has_results, client, len(client.results) + 2 * CONCURRENCY))
        cloud.kill()
        cloud.start()
        # Answers since this start only.
        _wait(partial(cloud.answered, len(cloud.runs) - 1))


def restart_under_load(
    clouds: Sequence[RestartableCloud],
    clients: Mapping[str, EdgeClient],
    cases: Sequence[ExpectedAnswer],
) -> dict[str, list[QuestionResult]]:
    """The results of every client's questions while each cloud is killed and restarted once."""
    background = {name: BackgroundClient(client, cases) for name, client in clients.items()}
    try:
        restart_each(clouds, list(background.values()))
    finally:
        # After a failure, too: threads that go on would prevent the process from ending.
        results = {name: client.stop() for name, client in background.items()}
    return results


def answered_twice(clouds: Sequence[RestartableCloud]) -> int:
    """Number of questions that were answered more than once according to the clouds' logs."""
    answered: Counter[str] = sum((cloud.answered() for cloud in clouds), Counter())
    return sum(count > 1 for count in answered.values())


def figures(results: Sequence[QuestionResult]) -> dict[str, Any]:
    """Counts and times of the questions of one client."""
    answered = [result for result in results if result.answer is not None]
    return {
        "asked": len(results),
        "answered": len(answered),
        "failed": dict(Counter(type(each.error).__name__ for each in results if each.error)),
        "answered_otherwise": sum(each.answer != each.case.expected for each in answered),
        "asked_again": sum(each.attempts > 1 for each in answered),
        "longest_seconds": round(max(each.seconds for each in results), 2),
        "deadline_seconds": CONFIG.total_seconds,
    }


def with_expected_answers(
    client: EdgeClient, cases: Sequence[ExpectedAnswer]
) -> list[ExpectedAnswer]:
    """The same questions with the answers of an undisturbed cloud."""
    return [
        ExpectedAnswer(case.image, case.text, str(client.ask(case.image, case.text)))
        for case in cases
    ]


@contextmanager
def two_clients(
    clouds: Sequence[RestartableCloud], bundle: Path, config: EdgeConfig = CONFIG
) -> Iterator[dict[str, EdgeClient]]:
    """Clients by name: one with the first cloud as its only target, one with all of them."""
    targets = [cloud.target for cloud in clouds]
    with (
        EdgeClient(targets[0], bundle, config) as one_cloud,
        EdgeClient(targets, bundle, config) as two_clouds,
    ):
        yield {"one cloud": one_cloud, "two clouds": two_clouds}


def _has_results(client: BackgroundClient, count: int) -> bool:
    return len(client.results) >= count


def _wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + RECOVERY_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(
                f"expected {condition} to hold within {RECOVERY_SECONDS:.0f} s, got nothing; see "
                "the clouds' logs"
            )
        time.sleep(0.2)


def main() -> int:
    """Print the figures; exits with 1 for a wrong, late or repeated answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    images = list(exam_images(IMAGES * 8))[:IMAGES]
    questions = [
        ExpectedAnswer(image.image, question.text)
        for image in images
        for question in image.questions
    ]
    with ExitStack() as stack:
        clouds = [RestartableCloud(BUNDLE, CHECKPOINT, stack) for _ in range(2)]
        clients = stack.enter_context(two_clients(clouds, BUNDLE))
        distinct = with_expected_answers(clients["one cloud"], questions)
        cases = [distinct[number % len(distinct)] for number in range(options.questions)]
        results = restart_under_load(clouds, clients, cases)
        twice = answered_twice(clouds)
    rows = {name: figures(client_results) for name, client_results in results.items()}
    text = json.dumps(rows | {"answered_twice": twice}, indent=2)
    print(text)
    for client_results in results.values():
        for error in sorted({str(each.error) for each in client_results if each.error})[:3]:
            print(f"  {error}")
    if options.out:
        write_file(options.out, text + "\n")
    limit = CONFIG.total_seconds + GRACE_SECONDS
    bad = any(row["answered_otherwise"] or row["longest_seconds"] > limit for row in rows.values())
    return 1 if bad or twice else 0


if __name__ == "__main__":
    sys.exit(main())
