"""How large the images are, and how long `docker-compose up` takes to the first answer.

Builds the images if they are missing or old, then starts the pair with no containers and no
certificates there and asks a question until it is answered. Exits with 1 if a target is missed. MB
are millions of bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from aligned_vq.files.atomic_file import write_file
from benchmarks.harness.compose import KNOWN_GOOD, ComposePair, docker

TARGETS = {"edge_image_mb": 450.0, "edge_packages_mb": 200.0, "first_answer_s": 60.0}
_PACKAGES = """
import json, sysconfig
from importlib.metadata import distributions
from pathlib import Path

folder = Path(sysconfig.get_path("purelib"))
print(json.dumps({
    "all": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    **{
        own.name: sum(Path(own.locate_file(file)).stat().st_size for file in own.files
                      if Path(own.locate_file(file)).is_file())
        for own in distributions(path=[str(folder)])
    },
}))
"""


def main() -> int:
    """Print the figures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="also write them to this file, as JSON")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with ComposePair() as pair:
        pair.build()
        figures = {
            f"{name}_image_mb": _image_mb(f"aligned-vq-{name}") for name in ("edge", "cloud")
        }
        packages = _packages_mb("aligned-vq-edge")
        figures["edge_packages_mb"] = packages.pop("all")
        figures["first_answer_s"] = _first_answer_s(pair)
    largest = dict(sorted(packages.items(), key=lambda item: -item[1]))
    told = json.dumps(
        {"figures": figures, "targets": TARGETS, "edge_packages_mb": largest}, indent=1
    )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(options.out, told + "\n")
    if options.json:
        print(told)
    else:
        for name, figure in figures.items():
            target = f"target {TARGETS[name]:.0f} at most" if name in TARGETS else ""
            print(f"{name:18} {figure:8.1f}   {target}")
        print("edge packages, MB:", ", ".join(f"{own} {mb:.1f}" for own, mb in largest.items()))
    return int(any(figures[name] > target for name, target in TARGETS.items()))


def _image_mb(image: str) -> float:
    return int(docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


def _packages_mb(image: str) -> dict[str, float]:
    """Of every installed distribution, and of `all` that lies where they do."""
    run = ("run", "--rm", "--network=none", "--entrypoint=python", image)
    sizes: dict[str, int] = json.loads(docker(*run, "-c", _PACKAGES))
    return {name: size / 1e6 for name, size in sizes.items()}


def _first_answer_s(pair: ComposePair) -> float:
    item = KNOWN_GOOD[0]
    start = time.monotonic()
    pair.up()
    pair.wait_ready()
    reply = pair.ask(question=item["question"])
    seconds = time.monotonic() - start
    if reply.status != 200 or reply.answer != item["answer"]:
        raise RuntimeError(f"expected {item['answer']!r}, got {reply}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
