"""Ask one question about an image, and print what it cost.

python examples/ask.py [--target HOST:PORT]
"""

from __future__ import annotations

import argparse

from edge_client import EdgeClient

BUNDLE = "aligned_vq/reference/bundle"
IMAGE = "examples/scene.png"


def main() -> None:
    """Print the answer, its bytes and its times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="127.0.0.1:50051", help="address of the cloud")
    options = parser.parse_args()

    with EdgeClient(options.target, BUNDLE) as client:
        answer = client.ask(IMAGE, "Describe the picture.")
    details = answer.details
    print(answer)
    print(f"{details.payload_bytes} B of indices in {details.message_bytes} B of messages")
    print(f"first text after {details.first_token_ms:.0f} ms, all after {details.total_ms:.0f} ms")


if __name__ == "__main__":
    main()
