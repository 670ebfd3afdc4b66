"""Time of recognition on the device, image file to labels, and whether it opens a socket.

    python -m benchmarks.speed.classify --bundle reference

Reference rooms become files, JPEG in colour and 16-bit PNG in depth; a warm `EdgeClassifier`
classifies them as `edge-client classify` does, which decodes in separate processes. Every socket
that Python or a library below it opens in this process is counted, apart from pipes to the decoding
processes.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aligned_vq.data.rooms.examples import RoomSet
from aligned_vq.data.rooms.kinds import room_kinds
from aligned_vq.files.atomic_file import write_json
from benchmarks.harness.provenance import provenance
from edge_client.classifier.classifier import EdgeClassifier

WARM_UP_IMAGES = 3
NETWORK_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class SocketCounter:
    """Counts sockets of network families that are opened in this process from now on."""

    def __init__(self) -> None:
        self.opened = 0
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        # Arguments of `socket.__new__`: the object, family, type, protocol.
        if event == "socket.__new__" and arguments[1] in NETWORK_FAMILIES:
            self.opened += 1


def write_images(folder: Path, count: int) -> dict[str, list[Path]]:
    """Files of `count` validation rooms by modality."""
    rooms = RoomSet("validation", tuple(room_kinds().scannet))
    files: dict[str, list[Path]] = {"rgb": [], "depth": []}
    for index in range(count):
        room = rooms[index]
        files["rgb"].append(folder / f"{index}.jpg")
        files["depth"].append(folder / f"{index}.png")
        Image.fromarray(room.rgb).save(files["rgb"][-1], quality=95)
        Image.fromarray(room.depth_mm).save(files["depth"][-1])
    return files


def times_ms(classifier: EdgeClassifier, files: list[Path], modality: Any) -> dict[str, float]:
    """Median and 95th percentile of milliseconds per file, and the model's share of the median."""
    spent, model = [], []
    for number, path in enumerate([*files[:WARM_UP_IMAGES], *files]):
        started = time.perf_counter()
        result = classifier.classify(path, modality=modality)
        if number >= WARM_UP_IMAGES:
            spent.append(1e3 * (time.perf_counter() - started))
            model.append(result.model_ms)
    return {
        "median_ms": round(float(np.median(spent)), 2),
        "p95_ms": round(float(np.percentile(spent, 95)), 2),
        "model_ms": round(float(np.median(model)), 2),
    }


def main() -> int:
    """Print a row for each modality, and the number of sockets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="reference", help="a classifier bundle")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    sockets = SocketCounter()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = write_images(Path(folder), options.images)
        with EdgeClassifier(
            options.bundle, threads=options.threads, isolate_images=True
        ) as classifier:
            for own in classifier.manifest.modalities:
                if own.modality in files:
                    rows[own.modality] = times_ms(classifier, files[own.modality], own.modality)
                    print(own.modality, rows[own.modality])
    print(f"network sockets opened: {sockets.opened}")
    if options.out:
        write_json(options.out, {**rows, "sockets": sockets.opened, **provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
