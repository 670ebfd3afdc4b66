"""The README's Python runs, and its names are real."""

from __future__ import annotations

import re
from pathlib import Path

import edge_client
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.processes import CloudProcess

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    with CloudProcess(BUNDLE, CHECKPOINT) as cloud:
        code = code.replace("127.0.0.1:50051", cloud.target)
        code = code.replace('"aligned_vq/', f'"{ROOT}/aligned_vq/')
        code = code.replace('"examples/', f'"{ROOT}/examples/')
        scope: dict[str, object] = {}
        exec(code, scope)
    answer = scope["answer"]
    assert isinstance(answer, edge_client.Answer)
    assert answer.startswith("from left to right: a large cyan cross")


def test_make_targets_and_modules_the_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = README + (ROOT / "benchmarks" / "README.md").read_text()
    for target in set(re.findall(r"`?make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for module in set(re.findall(r"-m (benchmarks[.\w]*\w)", text)):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


def test_exported_names_are_sorted_and_load() -> None:
    assert edge_client.__all__ == sorted(edge_client.__all__)
    for name in edge_client.__all__:
        assert getattr(edge_client, name).__name__ == name
