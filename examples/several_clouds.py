"""Questions at once, shared by several clouds: one that fails a question passes it on.

python examples/several_clouds.py [--targets HOST:PORT,HOST:PORT]
"""

from __future__ import annotations

import argparse
import asyncio

from edge_client import AlignedVQError, AsyncEdgeClient, EdgeConfig

BUNDLE = "aligned_vq/reference/bundle"
IMAGE = "examples/scene.png"
QUESTIONS = ("How many objects are there?", "What colour is the star?", "Describe the picture.")


async def ask(client: AsyncEdgeClient, question: str) -> str:
    """A line for the question: its answer and who gave it, or what went wrong."""
    try:
        answer = await client.ask(IMAGE, question)
    except AlignedVQError as error:
        return f"{question} {type(error).__name__}: {error}"
    return f"{question} {answer} [{answer.details.target}]"


async def run(targets: str) -> None:
    """Ask all questions at once, and print their lines."""
    config = EdgeConfig(total_seconds=60)
    async with AsyncEdgeClient(targets, BUNDLE, config) as client:
        for line in await asyncio.gather(*(ask(client, question) for question in QUESTIONS)):
            print(line)


def main() -> None:
    """Read the targets and ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default="127.0.0.1:50051", help="with commas between them")
    asyncio.run(run(parser.parse_args().targets))


if __name__ == "__main__":
    main()
