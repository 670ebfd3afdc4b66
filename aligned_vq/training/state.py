"""States on disk, each replaced as a whole or not at all.

A codec's run keeps a folder of safetensors and JSON; a module trained by itself keeps one file.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_file, write_json
from aligned_vq.files.atomic_folder import new_folder, recover

RUN = "run.json"
TENSORS, FACTS = "state.safetensors", "state.json"
_OPTIMISER = "optimiser."


def save_state(
    folder: Path,
    facts: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer | None = None,
) -> None:
    """Replace the checkpoint in `folder`; the one before survives every failure.

    Args:
        folder: of the checkpoint.
        facts: values that JSON can hold: the stage, the step, the run's identity.
        tensors: of the modules, by name.
        optimiser: its moments are saved too, by the number of their parameter.

    Raises:
        NotWritten: the disk is full or read-only; the checkpoint before is unchanged.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that share memory or are not contiguous.
    saved = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    if optimiser is not None:
        for number, moments in optimiser.state_dict()["state"].items():
            for name, value in moments.items():
                saved[f"{_OPTIMISER}{number}.{name}"] = torch.as_tensor(value).cpu().clone()
    with new_folder(folder, (TENSORS, FACTS)) as new:
        save_file(saved, new / TENSORS)
        write_json(new / FACTS, dict(facts))


def load_state(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Facts and tensors of the checkpoint in `folder`; None if there is none.

    Raises:
        ConfigError: the checkpoint cannot be read.
    """
    # An interrupted replacement may have left the checkpoint under a temporary name.
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
    """Put the moments saved by `save_state` back into an optimiser of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMISER):
            number, moment = name.removeprefix(_OPTIMISER).split(".", 1)
            state.setdefault(int(number), {})[moment] = tensor
    # Only the moments are restored; learning rates are those of the new optimiser.
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


def trim_log(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Keep only some lines of a log of JSON objects, if there is a log.

    Steps after the checkpoint are run again and must not be in the log twice.
    """
    if not path.exists():
        return
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            figures = json.loads(line)
        except ValueError:  # the run was killed while it wrote this line
            continue
        if keep(figures):
            lines.append(f"{line}\n")  # a kill may have cut off the end of the line
    write_file(path, "".join(lines))


def claim_folder(out: Path, config: Any, teacher: str, *, write: bool = True) -> None:
    """Refuse a folder that holds another run, and mark a new one as this run's.

    Args:
        out: the run's folder, made if it is missing.
        config: a dataclass of settings.
        teacher: digest of the model that teaches.
        write: mark a new folder; one of several processes does.

    Raises:
        ConfigError: the folder holds a run of other settings or of another teacher.
    """
    identity = hashlib.sha256((json.dumps(asdict(config)) + teacher).encode()).hexdigest()
    path = out / RUN
    if path.exists():
        if json.loads(path.read_text("utf-8")).get("identity") != identity:
            raise ConfigError(
                f"{out} holds a run of another configuration or teacher; give those it was started "
                "with, or another folder"
            )
    elif write:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, {"identity": identity, "config": asdict(config)})


class ModuleFile:
    """A module and its optimiser in one file; a `Checkpoint` of the loop.

    Args:
        path: of the file, in a folder that exists.
        module: all of its tensors are saved.
        optimiser: of the module's parameters.
    """

    def __init__(self, path: Path, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self._path = path
        self._module = module
        self._optimiser = optimiser

    def restore(self) -> int:
        """Put the saved state back; returns the number of finished steps, 0 without a file.

        Raises:
            ConfigError: the file cannot be read, or holds another module's state.
        """
        if not self._path.exists():
            return 0
        try:
            saved = torch.load(self._path, weights_only=True)  # a full pickle could run code
            self._module.load_state_dict(saved["module"])
            self._optimiser.load_state_dict(saved["optimiser"])
            finished_steps: int = saved["step"]
        except (KeyError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{self._path}: cannot read this module's state ({reason}); remove the file to "
                "start over"
            ) from error
        return finished_steps

    def save(self, finished_steps: int) -> None:
        """Replace the file.

        Raises:
            NotWritten: the disk is full or read-only; the file before is unchanged.
        """
        state = {
            "step": finished_steps,
            "module": self._module.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        written = io.BytesIO()  # torch's own error on a full disk does not name the cause
        torch.save(state, written)
        write_file(self._path, written.getbuffer())
