"""Good clients beside hostile questions: no good question may be lost or answered differently.

Four good clients ask one question after the other; their answers are compared with those of a
single client. At the same time hostile questions of many kinds arrive at a fixed rate, without the
checks of a client. Over gRPC, or with `--gateway` through the gateway's JSON.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from aligned_vq.data.scenes.exam import ExamImage, exam_images
from aligned_vq.files.atomic_file import write_json
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.attacks.question_cases import (
    HOSTILE,
    ONLY_JSON,
    QuestionCase,
    chat_request,
    wire_message,
)
from benchmarks.harness.processes import CloudProcess, GatewayProcess
from benchmarks.robustness.fuzz import outcome
from edge_client.encoder import EdgeEncoder
from protos import convert

MODEL = "reference"
ANSWER_TOKENS = 48
HOSTILE_AT_ONCE = 64
CALL_SECONDS = 60.0
ANSWERED = ("answered", "200")
REFUSED = ("INVALID_ARGUMENT", "DATA_LOSS", "RESOURCE_EXHAUSTED", "400", "413", "503")
"""Statuses of refusals. DATA_LOSS: text that is not UTF-8. 503: all slots are taken."""

Ask = Callable[[QuestionCase], tuple[str, str]]
"""Asks a question; returns the status and the text of the answer."""


@dataclass
class Tally:
    """Outcomes of the good questions, and of the hostile ones by kind."""

    seconds: list[float] = field(default_factory=list)
    good: Counter[str] = field(default_factory=Counter)
    hostile: Counter[tuple[str, str]] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        """Counts and times as they are printed."""
        statuses: Counter[str] = Counter()
        for (_, status), count in self.hostile.items():
            statuses[status] += count
        failed = {
            f"{kind}: {status}": count
            for (kind, status), count in self.hostile.items()
            if status not in (*ANSWERED, *REFUSED)
        }
        return {
            "good_asked": self.good.total(),
            # Questions without an answer are counted under their status.
            "good_lost": self.good.total() - self.good["whole"] - self.good["wrong"],
            "good_wrong": self.good["wrong"],
            "good_outcomes": dict(self.good),
            "good_p95_ms": round(1e3 * statistics.quantiles(self.seconds, n=20)[-1], 1),
            "good_worst_ms": round(1e3 * max(self.seconds), 1),
            "hostile_asked": statuses.total(),
            "hostile_kinds": len({kind for kind, _ in self.hostile}),
            "hostile_statuses": dict(statuses.most_common()),
            "hostile_failed": failed,
        }


def over_grpc(target: str, images: Sequence[ExamImage]) -> list[Ask]:
    """For each image a function that asks about it over gRPC, each over a separate connection."""
    encoder = EdgeEncoder(BUNDLE)

    def ask_about(image: ExamImage) -> Ask:
        payload = encoder.encode(image.image).payload
        (part,) = convert.payload_to_parts(payload)  # small enough for the first message
        channel = grpc.insecure_channel(target, (("grpc.use_local_subchannel_pool", 1),))
        return lambda case: outcome(channel, [wire_message(case, payload.manifest_digest, part)])

    return [ask_about(image) for image in images]


def over_http(port: int, images: Sequence[ExamImage]) -> list[Ask]:
    """For each image a function that asks about it through a gateway."""

    def ask_about(image: ExamImage) -> Ask:
        png = io.BytesIO()
        image.image.save(png, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"

        def ask(case: QuestionCase) -> tuple[str, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_SECONDS)
            try:
                headers = {"Content-Type": "application/json"}
                body = json.dumps(chat_request(case, MODEL, url))
                connection.request("POST", "/v1/chat/completions", body, headers)
                response = connection.getresponse()
                content = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                return type(error).__name__, ""
            finally:
                connection.close()
            if response.status != 200:
                return str(response.status), ""
            return "200", content["choices"][0]["message"]["content"]

        return ask

    return [ask_about(image) for image in images]


def questions_of(image: ExamImage) -> list[QuestionCase]:
    """The questions of a good client: several with short answers, and one with a long answer."""
    texts = [question.text for question in image.questions]
    return [QuestionCase(text, {"max_tokens": ANSWER_TOKENS}) for text in texts]


def attack(
    connections: Sequence[Ask],
    images: Sequence[ExamImage],
    hostile: dict[str, QuestionCase],
    options: argparse.Namespace,
) -> Tally:
    """Send hostile questions over the last connection while good clients use the others."""
    *good, bad = connections
    # The reference answers, before anybody attacks.
    expected_answers = [
        {case.text: ask(case) for case in questions_of(image)}
        # One image more than good connections: the last belongs to the hostile one.
        for ask, image in zip(good, images, strict=False)
    ]
    tally, lock = Tally(), threading.Lock()
    end = time.monotonic() + options.seconds

    def ask_repeatedly(ask: Ask, image: ExamImage, expected: dict[str, tuple[str, str]]) -> None:
        cases = questions_of(image)
        number = 0
        while time.monotonic() < end:
            case = cases[number % len(cases)]
            number += 1
            started = time.perf_counter()
            result = ask(case)
            with lock:
                tally.seconds.append(time.perf_counter() - started)
                status = "whole" if result == expected[case.text] else "wrong"
                tally.good[status if result[0] in ANSWERED else result[0]] += 1

    def send_hostile(kind: str) -> None:
        status, _ = bad(hostile[kind])
        with lock:
            tally.hostile[kind, status] += 1

    kinds = list(hostile)
    random.Random(options.seed).shuffle(kinds)
    good_clients = [
        threading.Thread(target=ask_repeatedly, args=arguments)
        for arguments in zip(good, images, expected_answers, strict=False)
    ]
    for client in good_clients:
        client.start()
    with ThreadPoolExecutor(HOSTILE_AT_ONCE) as pool:
        number = 0
        # At a fixed rate, whether or not earlier questions have ended.
        while time.monotonic() < end:
            if options.rate:
                pool.submit(send_hostile, kinds[number % len(kinds)])
            number += 1
            # Without hostile questions the loop only waits for the end.
            time.sleep(1 / (options.rate or 1))
    for client in good_clients:
        client.join()
    return tally


def main() -> int:
    """Print the figures; exits with 1 if a good question was lost or a hostile one hit a bug."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=5.0, help="hostile questions per second")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--kinds", nargs="*", help="kinds of hostile questions; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gateway", action="store_true", help="through the gateway's JSON")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    # `exam_images` counts questions; an image has at most eight.
    images = list(exam_images(8 * (options.clients + 1)))[: options.clients + 1]
    hostile = {**HOSTILE, **ONLY_JSON} if options.gateway else HOSTILE
    hostile = {kind: hostile[kind] for kind in options.kinds or hostile}
    with ExitStack() as stack:
        cloud = stack.enter_context(CloudProcess(BUNDLE, CHECKPOINT, "--log_level=warning"))
        if options.gateway:
            arguments = (f"--model_name={MODEL}", "--log_level=warning")
            gateway = stack.enter_context(GatewayProcess(cloud.target, BUNDLE, *arguments))
            connections = over_http(gateway.port, images)
        else:
            connections = over_grpc(cloud.target, images)
        tally = attack(connections, images, hostile, options)
        figures = tally.figures()
        figures["log_bytes"] = len(cloud.log)
        figures["alive"] = cloud.process.poll() is None
    print(json.dumps(figures, indent=2))
    lost = figures["good_lost"] + figures["good_wrong"]
    missed = bool(lost or figures["hostile_failed"] or not figures["alive"])
    print(
        f"good questions lost or wrong: {lost} of {figures['good_asked']} (target 0); hostile ones "
        f"that met a bug: {sum(figures['hostile_failed'].values())} of {figures['hostile_asked']} "
        f"(target 0): {'missed' if missed else 'met'}"
    )
    if options.out:
        write_json(options.out, figures)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
