"""Reference model: questions in a conversation against the same questions asked alone.

Two services: one with raw features, which answers as the unsplit model does, and one with the
shipped bundle at an operating point. The history contains the service's answers. Exits with 1 if
the accuracy of later turns is more than one percentage point lower in the conversation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from aligned_vq.data.scenes.exam import ExamImage, exam_conversations
from aligned_vq.data.scenes.questions import DESCRIBE
from aligned_vq.evaluation.bootstrap import paired_difference
from aligned_vq.files.atomic_file import write_json
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from aligned_vq.types import SplitPoint
from benchmarks.accuracy.equality import identity_bundle
from benchmarks.harness.processes import CloudProcess
from edge_client.aio import AsyncEdgeClient
from edge_client.config import EdgeConfig

CONCURRENCY = 8
MAX_TOKENS = 96
MAX_LOSS = 0.01
Verdicts = list[tuple[bool, bool]]
"""For each turn: correct when asked alone, correct in the conversation."""


async def examine(
    client: AsyncEdgeClient, exam: Sequence[ExamImage], quality: str | None, label: str
) -> list[Verdicts]:
    """Ask every question alone and in its conversation; returns the verdicts by conversation."""
    # Only conversations run in parallel: each turn needs the answer before it.
    slots = asyncio.Semaphore(CONCURRENCY)
    with tqdm(total=len(exam), desc=label, unit="conversation", leave=False) as bar:

        async def ask(image: ExamImage, text: str, history: Sequence[tuple[str, str]]) -> str:
            answer = await client.ask(
                image.image, text, history, max_tokens=MAX_TOKENS, quality=quality
            )
            return str(answer).strip()

        async def talk(image: ExamImage) -> Verdicts:
            async with slots:
                verdicts: Verdicts = []
                history: list[tuple[str, str]] = []
                for question in image.questions:
                    alone = await ask(image, question.text, ())
                    # The first turn has no history: its two questions are one.
                    answer = await ask(image, question.text, history) if history else alone
                    history.append((question.text, answer))
                    verdicts.append((alone == question.answer, answer == question.answer))
                bar.update()
                return verdicts

        return list(await asyncio.gather(*(talk(image) for image in exam)))


def figures(exam: Sequence[ExamImage], results: Sequence[Verdicts]) -> dict[str, Any]:
    """Accuracy of questions with short answers in percent, by turn.

    `difference` compares later turns with the same questions asked alone, in percentage points with
    a paired 95 % interval.
    """
    rows = [
        (number, turn, *verdict)
        for number, (image, verdicts) in enumerate(zip(exam, results, strict=True))
        for turn, (question, verdict) in enumerate(zip(image.questions, verdicts, strict=True), 1)
        if question.kind != DESCRIBE
    ]
    image, turn, alone, together = (np.array(column) for column in zip(*rows, strict=True))
    later = turn > 1
    # Resampled by image, as questions about one image are not independent.
    difference = paired_difference(together[later], alone[later], image[later])
    return {
        "conversations": len(exam),
        "questions": len(rows),
        "first_turn": round(100 * alone[~later].mean(), 1),
        "later_alone": round(100 * alone[later].mean(), 1),
        "later_in_conversation": round(100 * together[later].mean(), 1),
        "difference": [round(100 * value, 2) for value in difference],
        "by_turn": {
            int(number): [
                round(100 * alone[turn == number].mean(), 1),
                round(100 * together[turn == number].mean(), 1),
            ]
            for number in np.unique(turn)
        },
    }


async def measure(
    target: str, bundle: Path, exam: Sequence[ExamImage], quality: str | None
) -> dict[str, Any]:
    """Figures of one service at one operating point; None: the bundle's default."""
    async with AsyncEdgeClient(target, bundle, EdgeConfig()) as client:
        return figures(exam, await examine(client, exam, quality, quality or "unsplit"))


def main() -> int:
    """Print the figures; exits with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--first", type=int, default=0, help="index of the first scene")
    parser.add_argument("--qualities", nargs="*", default=["medium"])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    exam = list(
        exam_conversations(options.conversations, options.turns, options.split, options.first)
    )
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        raw = identity_bundle(Path(folder) / "raw", SplitPoint.parse("ln1@1"))
        for bundle, qualities in ((raw, [None]), (BUNDLE, options.qualities)):
            with CloudProcess(bundle, options.checkpoint) as cloud:
                for quality in qualities:
                    name = quality or "unsplit"
                    results[name] = asyncio.run(measure(cloud.target, bundle, exam, quality))
                    print(json.dumps({"path": name, **results[name]}), flush=True)
    if options.out:
        write_json(options.out, results)
    # In percentage points, positive where accuracy is lost.
    losses = [-result["difference"][0] for result in results.values()]
    return 1 if max(losses) > 100 * MAX_LOSS else 0


if __name__ == "__main__":
    sys.exit(main())
