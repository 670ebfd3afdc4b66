"""Compress an image to an .avq file, and ask about the file later, without the image.

python examples/compress_then_ask.py [--target HOST:PORT] [--file scene.avq]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aligned_vq import to_frame
from edge_client import EdgeClient

BUNDLE = "aligned_vq/reference/bundle"
IMAGE = Path("examples/scene.png")


def main() -> None:
    """Write the file, print its size, and print the answer to a question about it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="127.0.0.1:50051", help="address of the cloud")
    parser.add_argument("--file", type=Path, default=Path("scene.avq"), help="file to write")
    options = parser.parse_args()

    with EdgeClient(options.target, BUNDLE) as client:
        encoded = client.compress(IMAGE, quality="low")  # needs no cloud
        options.file.write_bytes(to_frame(encoded.payload))
        print(f"{IMAGE.stat().st_size} B of PNG, {options.file.stat().st_size} B of payload file")
        print(client.ask(options.file, "What colour is the star?"))


if __name__ == "__main__":
    main()
