"""What `watch --ask_when` saves over a walk through rooms: frames asked about, and bytes.

    python -m benchmarks.speed.watched_rooms --label stairs

A camera pans slowly through validation rooms of every kind; each frame is a file. `edge-client
watch` sees them twice: once it asks the cloud about every frame, once only about those in which its
own classifier finds the label. Bytes are counted at the socket, in both directions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from aligned_vq.data.rooms.examples import IMAGE_SIDE_PX
from aligned_vq.data.rooms.kinds import room_kinds
from aligned_vq.data.rooms.render import render
from aligned_vq.data.rooms.scenes import sample_camera, sample_room, scene_rng
from aligned_vq.files.atomic_file import write_json
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.processes import CloudProcess
from benchmarks.harness.provenance import provenance
from benchmarks.links.counting_proxy import CountingProxy

FRAMES_PER_ROOM = 4
PAN_RADIANS = 0.06
"""Between two frames."""
LIMIT_SECONDS = 1800
QUESTION = "Is somebody on them?"


def walk(rooms: int) -> Iterator[tuple[str, Image.Image]]:
    """Label and frame of a pan through `rooms` validation rooms, of every kind in turn."""
    kinds = tuple(room_kinds().scannet)
    for index in range(rooms):
        rng = scene_rng("validation", index)
        label = kinds[index % len(kinds)]
        room, layout = sample_room(label, rng)
        camera = sample_camera(layout, rng, IMAGE_SIDE_PX)
        for frame in range(FRAMES_PER_ROOM):
            turned = replace(camera, yaw=camera.yaw + PAN_RADIANS * (frame - FRAMES_PER_ROOM / 2))
            yield label, Image.fromarray(render(room, turned, rng).rgb)


def watched(folder: Path, port: int, *options: str) -> list[dict[str, Any]]:
    """The lines of `edge-client watch` over the frames in a folder."""
    command = [
        *(sys.executable, "-m", "edge_client.cli", "watch", f"--source={folder}", "--once"),
        *(f"--ask={QUESTION}", f"--target=127.0.0.1:{port}", f"--bundle={BUNDLE}"),
        *("--max_tokens=4", *options),
    ]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT_SECONDS
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def row(
    lines: list[dict[str, Any]], labels: dict[str, str], label: str, total: int
) -> dict[str, Any]:
    """Counts of one watch; recall and precision are those of frames with the label."""
    asked = [line["file"] for line in lines if "answer" in line]
    right = sum(labels[name] == label for name in asked)
    wanted = sum(own == label for own in labels.values())
    return {
        "frames": len(lines),
        "asked": len(asked),
        "recall": round(100 * right / max(1, wanted), 1),
        "precision": round(100 * right / max(1, len(asked)), 1),
        "bytes": total,
    }


def main() -> int:
    """Print both rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--label", default="stairs")
    parser.add_argument("--above", type=float, default=0.6, help="probability to ask from")
    parser.add_argument("--rooms", type=int, default=84)
    parser.add_argument("--classifier", default="reference")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    when = (f"--ask_when={options.label}>{options.above}", f"--classifier={options.classifier}")
    rows: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        CloudProcess(BUNDLE, CHECKPOINT) as cloud,
        CountingProxy(cloud.port) as proxy,
    ):
        labels = {}
        for number, (label, frame) in enumerate(walk(options.rooms)):
            name = f"{number:05d}.png"
            labels[name] = label
            frame.save(Path(folder, name))
        for name, chosen in (("every frame", ()), ("ask_when", when)):
            lines = watched(Path(folder), proxy.port, *chosen)
            moved = proxy.settled(1.0)
            rows[name] = row(lines, labels, options.label, moved.up + moved.down)
            print(f"{name:12} {rows[name]}")
    saved = 1 - rows["ask_when"]["bytes"] / rows["every frame"]["bytes"]
    print(f"{100 * saved:.1f} % of the bytes are saved")
    if options.out:
        write_json(options.out, {**rows, **provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
