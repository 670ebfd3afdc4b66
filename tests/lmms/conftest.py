"""lmms-eval as a person runs it, over tasks made of the reference world, without the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.processes import CloudProcess
from tests.lmms.world import write_tasks
from tests.log_search import LogSearch

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@dataclass(frozen=True)
class Evaluated:
    """What a run left behind."""

    output: str
    """Of both streams."""
    scores: dict[str, dict[str, Any]]
    """Of each task, as in the file of results."""
    samples: dict[str, list[dict[str, Any]]]
    """Each task's documents in their order, with answers."""
    bytes_log: list[dict[str, Any]]

    def answers(self, task: str) -> list[Any]:
        """A text for each document, or a list of what its several requests gave."""
        found = [own["filtered_resps"] for own in self.samples[task]]
        return [own.strip() if isinstance(own, str) else own for own in found]

    def bytes_of(self, task: str, name: str = "payload_bytes") -> list[Any]:
        """Of every question of a task."""
        return [own[name] for own in self.bytes_log if own["task"] == task]


Evaluate = Callable[..., Evaluated]


@pytest.fixture(scope="session")
def evaluate(tmp_path_factory: pytest.TempPathFactory) -> Evaluate:
    """Runs `python -m lmms_eval` with tasks, model arguments and further options; in several
    processes, `torchrun`'s, as `accelerate launch` starts a single one where there is no GPU."""
    tasks = tmp_path_factory.mktemp("tasks")
    write_tasks(tasks)
    home = tmp_path_factory.mktemp("hf")

    def run(names: str, model_args: str, *options: str, processes: int = 1) -> Evaluated:
        out = tmp_path_factory.mktemp("out")
        log = out / "bytes.jsonl"
        command = [sys.executable, *_launched(processes), "-m", "lmms_eval"]
        command += ["--model=aligned_vq", f"--tasks={names}"]
        command += [f"--model_args={model_args},bytes_log={log}", f"--include_path={tasks}"]
        command += [f"--output_path={out}", "--log_samples", *options]
        done = subprocess.run(
            command,
            env={**os.environ, **OFFLINE, "HF_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        results = [json.loads(own.read_text()) for own in out.rglob("*_results.json")]
        assert done.returncode == 0 or not results, done.stdout[-3000:]
        return Evaluated(
            done.stdout,
            results[0]["results"] if results else {},
            {
                own.stem.split("_samples_")[1]: sorted(lines(own), key=lambda row: row["doc_id"])
                for own in out.rglob("*_samples_*.jsonl")
            },
            lines(log) if log.exists() else [],
        )

    return run


def _launched(processes: int) -> list[str]:
    if processes == 1:
        return []
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


@pytest.fixture(scope="session")
def service(log_search: LogSearch) -> Iterator[CloudProcess]:
    """The reference model behind the shipped bundle."""
    with CloudProcess(BUNDLE, CHECKPOINT) as process:
        yield process


def lines(path: Path) -> list[dict[str, Any]]:
    """Of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True, scope="module")
def _private_logs(private_logs: None) -> None:
    """Of every module here."""
