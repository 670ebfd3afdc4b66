"""Trains a configuration and writes, per step, a digest of everything this process has learned.

Started by the tests under `torch.distributed.run`: CONFIG.yaml OUT.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from aligned_vq.training import stage
from aligned_vq.training.config_file import read_config
from aligned_vq.training.run import TrainingRun


def main(config: Path, out: Path) -> None:
    """Train, with a report beside the run."""
    torch.set_num_threads(1)
    run = TrainingRun(read_config(config), out)
    observe = stage._observe
    report = out.with_name(f"{out.name}-{run.accelerator.process_index}.jsonl").open("w")

    def observed(accelerator: Any, learners: stage.Learners, *rest: Any) -> None:
        observe(accelerator, learners, *rest)
        digest = hashlib.sha256()
        for name, tensor in sorted(learners.tensors().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        assert learners.keeper is not None
        felt = learners.model.latents_hat
        facts = {
            "processes": accelerator.num_processes,
            "digest": digest.hexdigest(),
            "felt": felt is not None and felt.grad is not None,
            "dead": learners.keeper.figures()["dead/0"],
        }
        report.write(json.dumps(facts) + "\n")
        report.flush()

    stage._observe = observed  # type: ignore[assignment]
    run.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
