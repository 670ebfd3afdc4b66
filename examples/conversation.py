"""Several questions about one image: its payload is sent once, and the history goes along.

python examples/conversation.py [--target HOST:PORT]
"""

from __future__ import annotations

import argparse

from edge_client import EdgeClient

BUNDLE = "aligned_vq/reference/bundle"
IMAGE = "examples/scene.png"
QUESTIONS = (
    "How many objects are there?",
    "What colour is the star?",
    "Describe the picture.",
)


def main() -> None:
    """Print each question, its answer, and how many bytes of indices it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="127.0.0.1:50051", help="address of the cloud")
    options = parser.parse_args()

    history: list[tuple[str, str]] = []
    with EdgeClient(options.target, BUNDLE) as client:
        for question in QUESTIONS:
            answer = client.ask(IMAGE, question, history=history)
            print(f"{question} {answer} [{answer.details.payload_bytes} B of indices]")
            history.append((question, answer))


if __name__ == "__main__":
    main()
