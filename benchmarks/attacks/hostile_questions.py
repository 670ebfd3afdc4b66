"""Good clients beside hostile questions: none of theirs may be lost, or answered otherwise.

Four good clients ask one question after the other; what they are answered is compared to what a
lone client is. Beside them come hostile questions of many kinds, so many a second, sent past every
check of a client. Over gRPC, or with `--gateway` through the gateway's JSON.
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
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.attacks.questions import HOSTILE, ONLY_JSON, HostileQuestion, as_json, on_the_wire
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
"""Clear refusals; a damaged text is damaged data on the wire, and 503 is said when all places are
taken."""

Ask = Callable[[HostileQuestion], tuple[str, str]]
"""Returns a status and the answer."""


@dataclass
class Tally:
    """What became of the good questions, and of the hostile ones by kind."""

    seconds: list[float] = field(default_factory=list)
    good: Counter[str] = field(default_factory=Counter)
    hostile: Counter[tuple[str, str]] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        """Measured, for people and for JSON."""
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
    """A way to ask about each picture, each over a connection of its own."""
    encoder = EdgeEncoder(BUNDLE)

    def way(image: ExamImage) -> Ask:
        payload = encoder.encode(image.image).payload
        (part,) = convert.payload_to_parts(payload)
        channel = grpc.insecure_channel(target, (("grpc.use_local_subchannel_pool", 1),))
        return lambda asked: outcome(channel, [on_the_wire(asked, payload.manifest_digest, part)])

    return [way(image) for image in images]


def over_http(port: int, images: Sequence[ExamImage]) -> list[Ask]:
    """The same through a gateway."""

    def way(image: ExamImage) -> Ask:
        written = io.BytesIO()
        image.image.save(written, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"

        def ask(asked: HostileQuestion) -> tuple[str, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_SECONDS)
            try:
                headers = {"Content-Type": "application/json"}
                body = json.dumps(as_json(asked, MODEL, url))
                connection.request("POST", "/v1/chat/completions", body, headers)
                reply = connection.getresponse()
                said = json.loads(reply.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                return type(error).__name__, ""
            finally:
                connection.close()
            if reply.status != 200:
                return str(reply.status), ""
            return "200", said["choices"][0]["message"]["content"]

        return ask

    return [way(image) for image in images]


def questions_of(image: ExamImage) -> list[HostileQuestion]:
    """What a good client asks in turn: short questions, and one with a long answer."""
    texts = [question.text for question in image.questions]
    return [HostileQuestion(text, {"max_tokens": ANSWER_TOKENS}) for text in texts]


def attack(
    ways: Sequence[Ask],
    images: Sequence[ExamImage],
    hostile: dict[str, HostileQuestion],
    options: argparse.Namespace,
) -> Tally:
    """Good clients on all ways but the last, hostile questions on that one."""
    *good, bad = ways
    alone = [
        {asked.text: way(asked) for asked in questions_of(image)}
        for way, image in zip(good, images, strict=False)
    ]
    tally, lock = Tally(), threading.Lock()
    end = time.monotonic() + options.seconds

    def talk(way: Ask, image: ExamImage, expected: dict[str, tuple[str, str]]) -> None:
        asked = questions_of(image)
        number = 0
        while time.monotonic() < end:
            own = asked[number % len(asked)]
            number += 1
            started = time.perf_counter()
            found = way(own)
            with lock:
                tally.seconds.append(time.perf_counter() - started)
                status = "whole" if found == expected[own.text] else "wrong"
                tally.good[status if found[0] in ANSWERED else found[0]] += 1

    def harm(kind: str) -> None:
        status, _ = bad(hostile[kind])
        with lock:
            tally.hostile[kind, status] += 1

    kinds = list(hostile)
    random.Random(options.seed).shuffle(kinds)
    talkers = [
        threading.Thread(target=talk, args=own) for own in zip(good, images, alone, strict=False)
    ]
    for talker in talkers:
        talker.start()
    with ThreadPoolExecutor(HOSTILE_AT_ONCE) as pool:
        number = 0
        while time.monotonic() < end:
            if options.rate:
                pool.submit(harm, kinds[number % len(kinds)])
            number += 1
            time.sleep(1 / (options.rate or 1))
    for talker in talkers:
        talker.join()
    return tally


def main() -> int:
    """Print what was lost; exits with 1 if anything was, or a hostile question met a bug."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=5.0, help="hostile questions a second")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--kinds", nargs="*", help="of hostile questions; all without")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gateway", action="store_true", help="through the gateway's JSON")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    images = list(exam_images(8 * (options.clients + 1)))[: options.clients + 1]
    hostile = {**HOSTILE, **ONLY_JSON} if options.gateway else HOSTILE
    hostile = {kind: hostile[kind] for kind in options.kinds or hostile}
    with ExitStack() as stack:
        cloud = stack.enter_context(CloudProcess(BUNDLE, CHECKPOINT, "--log_level=warning"))
        if options.gateway:
            arguments = (f"--model_name={MODEL}", "--log_level=warning")
            gateway = stack.enter_context(GatewayProcess(cloud.target, BUNDLE, *arguments))
            ways = over_http(gateway.port, images)
        else:
            ways = over_grpc(cloud.target, images)
        tally = attack(ways, images, hostile, options)
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
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
