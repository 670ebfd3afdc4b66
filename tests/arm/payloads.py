"""Prints the payloads of images as JSON: by file and quality, the body in hexadecimal.

`python -m tests.arm.payloads BUNDLE IMAGE...`, here or on the emulated device.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

from aligned_vq.images.load import load_image
from aligned_vq.images.preprocess import preprocess
from edge_client.encoder import EdgeEncoder


def main(bundle: str, *images: str) -> None:
    """Look at every image once, and compress what was seen at every quality."""
    encoder = EdgeEncoder(bundle)
    spec, processor = encoder.backend.spec, encoder.manifest.processor
    payloads = {}
    for image in images:
        output = encoder.backend.run_prefix(preprocess(load_image(image), processor))
        for point in encoder.manifest.operating_points:
            body = spec.compress(output, point.name).body
            payloads[f"{Path(image).name} {point.name}"] = body.hex()
    sys.stdout.write(json.dumps({"machine": platform.machine(), "payloads": payloads}))


if __name__ == "__main__":
    main(*sys.argv[1:])
