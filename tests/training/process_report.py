"""Trains a configuration and writes, per step, a digest of everything this process has learned.

Started by the tests under `torch.distributed.run`: CONFIG.yaml OUT.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch

from aligned_vq.training.config_file import read_config
from aligned_vq.training.loop import StepReport
from aligned_vq.training.run import TrainingRun
from aligned_vq.training.stage import CodecTask


def main(config: Path, out: Path) -> None:
    """Train, with a report beside the run."""
    torch.set_num_threads(1)
    run = TrainingRun.open(read_config(config), out)
    after_step = CodecTask.after_step
    lines = out.with_name(f"{out.name}-{run.accelerator.process_index}.jsonl").open("w")

    def observed(task: CodecTask, report: StepReport) -> None:
        after_step(task, report)
        modules = task.modules
        digest = hashlib.sha256()
        for name, tensor in sorted(modules.tensors().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        assert modules.updater is not None
        latents_hat = modules.model.latents_hat
        facts = {
            "processes": task.accelerator.num_processes,
            "digest": digest.hexdigest(),
            "sensitivity": latents_hat is not None and latents_hat.grad is not None,
            "dead": modules.updater.figures()["dead/0"],
        }
        lines.write(json.dumps(facts) + "\n")
        lines.flush()

    CodecTask.after_step = observed  # type: ignore[assignment, method-assign]
    run.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
