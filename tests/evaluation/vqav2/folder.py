"""A small folder of VQA-v2's files, and the command over it, for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aligned_vq.cli import main
from aligned_vq.data.vqav2_files import annotations_path, questions_path
from aligned_vq.evaluation.vqav2.world import SPLIT


def arguments(data: Path, out: Path, checkpoint: Path, *options: str) -> list[str]:
    """Of the evaluation, without bundles."""
    return [
        *("eval", "--benchmark", "vqav2", f"--data={data}", f"--out={out}"),
        *(f"--checkpoint={checkpoint}", "--max_tokens=4", *options),
    ]


def evaluated(data: Path, out: Path, checkpoint: Path, *options: str) -> Any:
    """The figures that the evaluation writes, run in this process."""
    assert main(arguments(data, out, checkpoint, *options)) == 0
    return json.loads((out / "vqav2.json").read_text())


def results(out: Path) -> dict[str, bytes]:
    """Every result file, by the name of its row."""
    return {path.parent.name: path.read_bytes() for path in out.glob("*/*_results.json")}


def changed(data: Path, member: str, number: int, **fields: Any) -> None:
    """Write other fields into a question or annotation; None removes one."""
    paths = {"questions": questions_path, "annotations": annotations_path}
    path = paths[member](data, SPLIT)
    content = json.loads(path.read_text())
    record = content[member][number]
    for key, value in fields.items():
        record.pop(key)
        if value is not None:
            record[key] = value
    path.write_text(json.dumps(content))
