"""What has to be installed for the edge: megabytes of Python packages, in a fresh environment."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aligned_vq.files.atomic_file import write_file

ROOT = Path(__file__).parents[2]
TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
OURS = ("aligned_vq", "edge_client", "cloud_server", "protos")


def installed_mb(extra: str) -> dict[str, Any]:
    """Megabytes of Python packages that an extra brings into a fresh environment."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        pip += ["-c", str(ROOT / "constraints.txt"), f"{ROOT}[{extra}]"]
        subprocess.run(pip, check=True, timeout=900)
        (packages,) = Path(folder).glob("lib/python*/site-packages")
        entries = [own for own in packages.iterdir() if not own.name.startswith(TOOLS)]
        sizes = {own.name: _bytes(own.rglob("*") if own.is_dir() else [own]) for own in entries}
        byte_code = sum(_bytes(own.rglob("__pycache__/*")) for own in entries)
    ours = sum(sizes[name] for name in OURS)
    return {
        "total": sum(sizes.values()) / 1e6,
        "this_project_and_its_reference_model": ours / 1e6,
        "byte_code_made_at_installation": byte_code / 1e6,
        "largest": {n: size / 1e6 for size, n in sorted((s, n) for n, s in sizes.items())[-9:]},
    }


def _bytes(entries: Iterable[Path]) -> int:
    """What the files take on the disk, in whole blocks."""
    return sum(entry.stat().st_blocks * 512 for entry in entries if entry.is_file())


def main() -> int:
    """Print the sizes; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extra", default="edge", help="of this project")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    found = installed_mb(options.extra)
    for name, mb in found.items():
        print(f"{name}: {mb}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(options.out, json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
