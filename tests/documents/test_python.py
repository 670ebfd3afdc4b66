"""Every block of Python in README and documents runs, against a real cloud and gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.processes import CloudProcess, GatewayProcess
from tests.documents.reading import DOCUMENTS, ROOT, blocks

BLOCKS = [
    pytest.param(code, id=f"{document.relative_to(ROOT)}-{number}")
    for document in DOCUMENTS
    for number, code in enumerate(blocks(document, "python"))
]


@pytest.mark.parametrize("code", BLOCKS)
def test_it_runs(
    code: str,
    reference_cloud: CloudProcess,
    reference_gateway: GatewayProcess,
    checkout: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = code.replace("127.0.0.1:50051", reference_cloud.target)
    code = code.replace("http://127.0.0.1:8080", reference_gateway.url)
    exec(compile(code, "<document>", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out or "assert" in code


def test_the_readme_answers_and_its_names_are_real(
    reference_cloud: CloudProcess, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    exec(code.replace("127.0.0.1:50051", reference_cloud.target), {})
    assert capsys.readouterr().out.startswith("from left to right: a large cyan cross")
    assert len(code.strip().splitlines()) == 5


def test_there_are_blocks_to_run() -> None:
    assert len(BLOCKS) >= 7
