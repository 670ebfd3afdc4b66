"""docs/structure.md lists every module of the packages and every folder beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "structure.md").read_text()
PACKAGES = ("aligned_vq", "protos", "edge_client", "cloud_server", "lmms_plugin")
GENERATED = ("__init__", "__main__")


def listed() -> dict[str, list[str]]:
    """Folder -> the modules of its table, for the tables whose first column is `module`."""
    found: dict[str, list[str]] = {}
    folder = ""
    for line in PAGE.splitlines():
        if heading := re.match(r"## (\w+)$|`([\w/]+)`: ", line):
            folder = heading[1] or heading[2]
        elif line == "| module | is |":
            assert folder not in found, f"two tables of {folder}"
            found[folder] = []
        elif folder in found and (row := re.match(r"\| `(\w+)` \| \S", line)):
            found[folder].append(row[1])
    return found


def modules(folder: Path) -> list[str]:
    """Modules that people write, by name."""
    names = [path.stem for path in folder.glob("*.py")]
    return sorted(name for name in names if name not in GENERATED and "_pb2" not in name)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_is_listed_once_and_exists(package: str) -> None:
    folders = sorted({path.parent for path in (ROOT / package).rglob("*.py")})
    there = {str(own.relative_to(ROOT)): modules(own) for own in folders if modules(own)}
    tables = {name: sorted(rows) for name, rows in listed().items() if name.startswith(package)}
    assert tables == there


@pytest.mark.parametrize("top", ["benchmarks", "docker"])
def test_every_folder_beside_the_packages_is_listed(top: str) -> None:
    rows = re.findall(rf"^\| `({top}/[\w/]+)` \|", PAGE, re.MULTILINE)
    if top == "docker":
        there = [path for path in (ROOT / top).iterdir() if path.is_dir()]
    else:
        skipped = {"results", "__pycache__"}
        there = [path for path in (ROOT / top).rglob("*") if path.is_dir()]
        inner = [path for path in there if not skipped & set(path.relative_to(ROOT).parts)]
        there = [*inner, ROOT / top / "results"]
    assert rows == sorted(str(path.relative_to(ROOT)) for path in there)


def test_every_named_test_folder_exists() -> None:
    for name in re.findall(r"`(tests/[\w/]+)`", PAGE):
        assert (ROOT / name).is_dir(), name
