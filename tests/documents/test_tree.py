"""The tree stays readable: small files and folders, short signatures, one class for each name."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.documents.reading import ROOT

PACKAGES = ("aligned_vq", "edge_client", "cloud_server", "protos", "lmms_plugin", "benchmarks")
MOST_LINES = 300
MOST_MODULES = 12
MOST_PARAMETERS = 6
DICTATED = {"should_sample": "OpenTelemetry's Sampler", "AlignedVQModel.__init__": "lmms-eval"}
"""Functions whose signature another project decides."""


def modules(*folders: str) -> Iterator[Path]:
    """Python files that people write."""
    for folder in folders:
        yield from (path for path in (ROOT / folder).rglob("*.py") if "_pb2" not in path.name)


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in modules(*PACKAGES, "tests", "examples")
        if (lines := len(path.read_text().splitlines())) > MOST_LINES
    }
    assert long == {}


def test_folders_are_small() -> None:
    counts = Counter(path.parent for path in modules(*PACKAGES, "tests"))
    for folder, count in counts.items():
        written = count - (folder / "__init__.py").is_file()
        assert written <= MOST_MODULES, folder


def test_signatures_are_short() -> None:
    for path in modules(*PACKAGES):
        for name, function in functions(ast.parse(path.read_text())):
            positional = [*function.args.posonlyargs, *function.args.args]
            count = len([one for one in positional if one.arg not in ("self", "cls")])
            assert count <= MOST_PARAMETERS or name in DICTATED, (path, name, count)


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions of a module; constructors with the name of their class."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                is_constructor = isinstance(node, ast.ClassDef) and child.name == "__init__"
                prefix = f"{node.name}." if is_constructor else ""  # type: ignore[attr-defined]
                yield prefix + child.name, child


def test_no_two_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in modules(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}
