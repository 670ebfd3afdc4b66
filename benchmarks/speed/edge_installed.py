"""Installed size of the edge's Python packages in a fresh environment."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aligned_vq.files.atomic_file import write_json

ROOT = Path(__file__).parents[2]
TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
OURS = ("aligned_vq", "edge_client", "cloud_server", "protos")


def installed_mb(extra: str) -> dict[str, Any]:
    """MB of the Python packages that an extra installs into a fresh environment."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        # Pinned versions, so that the figures can be repeated.
        pip += ["-c", str(ROOT / "constraints.txt"), f"{ROOT}[{extra}]"]
        subprocess.run(pip, check=True, timeout=900)
        (packages,) = Path(folder).glob("lib/python*/site-packages")
        # pip and its tools are part of the environment, not of the edge.
        entries = [path for path in packages.iterdir() if not path.name.startswith(TOOLS)]
        sizes = {
            path.name: _disk_bytes(path.rglob("*") if path.is_dir() else [path]) for path in entries
        }
        byte_code = sum(_disk_bytes(path.rglob("__pycache__/*")) for path in entries)
    ours = sum(sizes[name] for name in OURS)
    return {
        "total": sum(sizes.values()) / 1e6,
        "this_project_and_its_reference_model": ours / 1e6,
        "byte_code_made_at_installation": byte_code / 1e6,
        "largest": {n: size / 1e6 for size, n in sorted((s, n) for n, s in sizes.items())[-9:]},
    }


def _disk_bytes(entries: Iterable[Path]) -> int:
    """Bytes that the files occupy on disk, in whole blocks."""
    # Units of 512 bytes, whatever the block size of the file system.
    return sum(entry.stat().st_blocks * 512 for entry in entries if entry.is_file())


def main() -> int:
    """Print the sizes; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extra", default="edge", help="extra of this project to install")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    sizes_mb = installed_mb(options.extra)
    for name, mb in sizes_mb.items():
        print(f"{name}: {mb}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, sizes_mb)
    return 0


if __name__ == "__main__":
    sys.exit(main())
