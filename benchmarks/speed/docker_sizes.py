"""Sizes of the Docker images, and the time from `docker-compose up` to the first answer.

Builds the images if they are missing or outdated, starts both services without existing containers
and certificates, and asks a question once the gateway is ready. Exits with 1 if a target is missed.
MB are millions of bytes.
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
# Runs inside the container: bytes of all files in site-packages, and of each distribution.
_PACKAGES = """
import json, sysconfig
from importlib.metadata import distributions
from pathlib import Path

folder = Path(sysconfig.get_path("purelib"))
print(json.dumps({
    "all": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    **{
        package.name: sum(Path(package.locate_file(file)).stat().st_size for file in package.files
                          if Path(package.locate_file(file)).is_file())
        for package in distributions(path=[str(folder)])
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
        # Not part of the time to the first answer.
        pair.build()
        figures = {
            f"{name}_image_mb": _image_mb(f"aligned-vq-{name}") for name in ("edge", "cloud")
        }
        packages = _packages_mb("aligned-vq-edge")
        figures["edge_packages_mb"] = packages.pop("all")
        figures["first_answer_s"] = _first_answer_s(pair)
    largest = dict(sorted(packages.items(), key=lambda item: -item[1]))
    report = json.dumps(
        {"figures": figures, "targets": TARGETS, "edge_packages_mb": largest}, indent=1
    )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(options.out, report + "\n")
    if options.json:
        print(report)
    else:
        for name, figure in figures.items():
            target = f"target {TARGETS[name]:.0f} at most" if name in TARGETS else ""
            print(f"{name:18} {figure:8.1f}   {target}")
        print("edge packages, MB:", ", ".join(f"{name} {mb:.1f}" for name, mb in largest.items()))
    return int(any(figures[name] > target for name, target in TARGETS.items()))


def _image_mb(image: str) -> float:
    return int(docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


def _packages_mb(image: str) -> dict[str, float]:
    """MB of every installed distribution, and of `all` files in the site-packages folder."""
    run = ("run", "--rm", "--network=none", "--entrypoint=python", image)
    sizes: dict[str, int] = json.loads(docker(*run, "-c", _PACKAGES))
    return {name: size / 1e6 for name, size in sizes.items()}


def _first_answer_s(pair: ComposePair) -> float:
    """Seconds from the start of the containers to a correct answer."""
    item = KNOWN_GOOD[0]
    start = time.monotonic()
    pair.up()
    pair.wait_ready()
    reply = pair.ask(question=item["question"])
    seconds = time.monotonic() - start
    if reply.status != 200 or reply.answer != item["answer"]:
        raise RuntimeError(
            f"expected the answer {item['answer']!r}, got {reply}; see `docker-compose logs`"
        )
    return seconds


if __name__ == "__main__":
    sys.exit(main())
