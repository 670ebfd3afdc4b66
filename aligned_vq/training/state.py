"""A run's state on disk: safetensors and JSON, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_file
from aligned_vq.files.atomic_folder import new_folder, recover

TENSORS, FACTS = "state.safetensors", "state.json"
_OPTIMISER = "optimiser."


def save_state(
    folder: Path,
    facts: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer | None = None,
) -> None:
    """Replace the checkpoint in `folder`; the one before survives whatever goes wrong here.

    Args:
        folder: of the checkpoint.
        facts: JSON-able: the stage, the step, what the run is.
        tensors: modules' tensors by name.
        optimiser: its moments are kept too, by the number of their parameter.

    Raises:
        NotWritten: the disk is full or cannot be written; nothing has changed then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    every = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    if optimiser is not None:
        for number, moments in optimiser.state_dict()["state"].items():
            for name, value in moments.items():
                every[f"{_OPTIMISER}{number}.{name}"] = torch.as_tensor(value).cpu().clone()
    with new_folder(folder, (TENSORS, FACTS)) as new:
        save_file(every, new / TENSORS)
        write_file(new / FACTS, json.dumps(dict(facts), indent=1) + "\n")


def load_state(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Facts and tensors of the last checkpoint, None if there is none.

    Raises:
        ConfigError: there is one, but it cannot be read.
    """
    recover(folder)
    if not folder.exists():
        return None
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return facts, load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            f"{folder}: cannot read the checkpoint ({error}); remove it to start over"
        ) from error


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the moments that `save_state` kept back into an optimiser of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMISER):
            number, moment = name.removeprefix(_OPTIMISER).split(".", 1)
            state.setdefault(int(number), {})[moment] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


def trim_log(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Take out of a log of JSON lines what is not to be kept, if there is one.

    What steps after the checkpoint wrote, for those are run again.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            figures = json.loads(line)
        except ValueError:  # the run was killed while it wrote this line
            continue
        if keep(figures):
            kept.append(f"{line}\n")  # its end may be what the kill cut off
    write_file(path, "".join(kept))
