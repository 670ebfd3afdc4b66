"""`make demo`: a cloud and an edge process on this machine, three questions about one image.

Prints the answers, the size of the payload, the bytes at the socket, the size of the image as a
JPEG file, and the time of every stage. Exits with 1 if an answer is wrong. Uses the bundled
reference model.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.processes import CloudProcess
from benchmarks.links.counting_proxy import CountingProxy

IMAGE = Path(__file__).parents[1] / "examples" / "scene.png"
EXPECTED = json.loads(IMAGE.with_suffix(".json").read_text())


def main() -> int:
    """Run the demo; returns the exit status."""
    print("reference model: a small LLaVA trained on rendered scenes, bundled with this project")
    print(f"image: {IMAGE}\nstarting the cloud process ...", flush=True)
    wrong = 0
    with CloudProcess(BUNDLE, CHECKPOINT) as cloud, CountingProxy(cloud.port) as proxy:
        print(f"cloud: pid {cloud.process.pid}, {cloud.target}")
        print("edge: a separate process that reaches the cloud through a counting proxy\n")
        results = _ask(f"127.0.0.1:{proxy.port}", [item["question"] for item in EXPECTED])
        traffic = proxy.take()
    for item, result in zip(EXPECTED, results, strict=True):
        right = result["answer"] == item["answer"]
        wrong += not right
        print(f"Q: {item['question']}\nA: {result['answer']}   [{'right' if right else 'WRONG'}]\n")
    _print_bytes(results, traffic.up, traffic.down)
    _print_timings(results[0])
    return 1 if wrong else 0


def _ask(target: str, questions: list[str]) -> list[dict[str, Any]]:
    """Answers with sizes and times, from one edge process over one connection."""
    # The command line that a user would run, so that the figures are those of real use.
    command = [sys.executable, "-m", "edge_client.cli", "ask", str(IMAGE), *questions]
    command += [f"--target={target}", f"--bundle={BUNDLE}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise SystemExit(f"the edge process failed: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _print_bytes(results: list[dict[str, Any]], up: int, down: int) -> None:
    jpeg = io.BytesIO()
    Image.open(IMAGE).convert("RGB").save(jpeg, "JPEG", quality=90)
    first, *others = results
    print("bytes sent by the edge")
    print(f"  payload of the image              {first['payload_bytes']:>7}")
    print(f"  messages, first question          {first['message_bytes']:>7}")
    for number, result in enumerate(others, 2):
        print(f"  messages, question {number} (by digest)  {result['message_bytes']:>7}")
    print(f"  at the socket, all {len(results)} questions     {up:>7}   (received: {down})")
    print(f"  the image as a JPEG, quality 90   {jpeg.tell():>7}\n")


def _print_timings(result: dict[str, Any]) -> None:
    print("milliseconds, first question (cold caches, one CPU machine for both sides)")
    for side in ("edge", "cloud"):
        stages = "  ".join(f"{stage} {ms:.1f}" for stage, ms in result[side].items())
        print(f"  {side:<6} {stages}")
    first, total = result["first_token_ms"], result["total_ms"]
    print(f"  first text after {first:.0f} ms, all after {total:.0f} ms")


if __name__ == "__main__":
    sys.exit(main())
