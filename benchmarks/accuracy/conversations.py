"""Reference model: questions in a conversation against the same questions asked alone.

Two real services: one with raw features, which answers as the unsplit model does, and one with the
shipped bundle at an operating point. The history holds the answers that the service gave itself.
Exits with 1 where later turns are more than a point behind.
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
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from aligned_vq.types import SplitPoint
from benchmarks.accuracy.equality import identity_bundle
from benchmarks.harness.processes import CloudProcess
from edge_client.aio import AsyncEdgeClient
from edge_client.config import EdgeConfig

AT_ONCE = 8
MAX_TOKENS = 96
MOST_BEHIND = 0.01
Verdicts = list[tuple[bool, bool]]


async def examine(
    client: AsyncEdgeClient, exam: Sequence[ExamImage], quality: str | None, label: str
) -> list[Verdicts]:
    """Per conversation and turn: right when asked alone, right in the conversation?"""
    places = asyncio.Semaphore(AT_ONCE)
    with tqdm(total=len(exam), desc=label, unit="conversation", leave=False) as bar:

        async def ask(image: ExamImage, text: str, history: Sequence[tuple[str, str]]) -> str:
            answer = await client.ask(
                image.image, text, history, max_tokens=MAX_TOKENS, quality=quality
            )
            return str(answer).strip()

        async def talk(image: ExamImage) -> Verdicts:
            async with places:
                found: Verdicts = []
                history: list[tuple[str, str]] = []
                for question in image.questions:
                    alone = await ask(image, question.text, ())
                    said = await ask(image, question.text, history) if history else alone
                    history.append((question.text, said))
                    found.append((alone == question.answer, said == question.answer))
                bar.update()
                return found

        return list(await asyncio.gather(*(talk(image) for image in exam)))


def figures(exam: Sequence[ExamImage], found: Sequence[Verdicts]) -> dict[str, Any]:
    """Percentages of short questions, by turn; later turns against the same questions alone."""
    asked = [
        (number, turn, *right)
        for number, (image, verdicts) in enumerate(zip(exam, found, strict=True))
        for turn, (question, right) in enumerate(zip(image.questions, verdicts, strict=True), 1)
        if question.kind != DESCRIBE
    ]
    image, turn, alone, said = (np.array(column) for column in zip(*asked, strict=True))
    later = turn > 1
    behind = paired_difference(said[later], alone[later], image[later])
    return {
        "conversations": len(exam),
        "questions": len(asked),
        "first_turn": round(100 * alone[~later].mean(), 1),
        "later_alone": round(100 * alone[later].mean(), 1),
        "later_in_conversation": round(100 * said[later].mean(), 1),
        "difference": [round(100 * value, 2) for value in behind],
        "by_turn": {
            int(number): [
                round(100 * alone[turn == number].mean(), 1),
                round(100 * said[turn == number].mean(), 1),
            ]
            for number in np.unique(turn)
        },
    }


async def measure(
    target: str, bundle: Path, exam: Sequence[ExamImage], quality: str | None
) -> dict[str, Any]:
    """One service's figures."""
    async with AsyncEdgeClient(target, bundle, EdgeConfig()) as client:
        return figures(exam, await examine(client, exam, quality, quality or "unsplit"))


def main() -> int:
    """Print the figures; exits with 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--first", type=int, default=0, help="scene of the split to begin with")
    parser.add_argument("--qualities", nargs="*", default=["medium"])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    exam = list(
        exam_conversations(options.conversations, options.turns, options.split, options.first)
    )
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        raw = identity_bundle(Path(folder) / "raw", SplitPoint.parse("ln1@1"))
        for bundle, qualities in ((raw, [None]), (BUNDLE, options.qualities)):
            with CloudProcess(bundle, options.checkpoint) as cloud:
                for quality in qualities:
                    name = quality or "unsplit"
                    found[name] = asyncio.run(measure(cloud.target, bundle, exam, quality))
                    print(json.dumps({"path": name, **found[name]}), flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    behind = [-each["difference"][0] for each in found.values()]
    return 1 if max(behind) > 100 * MOST_BEHIND else 0


if __name__ == "__main__":
    sys.exit(main())
