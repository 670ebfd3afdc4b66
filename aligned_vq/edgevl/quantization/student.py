"""A student that is trained as its int8 graph will compute.

Inputs and weights of every linear layer are rounded to 8 bits: activations on one static grid per
tensor, weights on one grid per output channel. Ranges of activations come from calibration images
of all modalities and are fixed before training, so that training and deployment round alike.
Gradients pass the rounding unchanged (straight-through; Jacob et al., CVPR 2018).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aligned_vq.edgevl.quantization.capture import activations, convert, prepare
from aligned_vq.edgevl.quantization.dropout import set_dropout
from aligned_vq.edgevl.quantization.onnx_files import write_program
from aligned_vq.edgevl.quantization.ranges import MODALITIES
from aligned_vq.edgevl.students.build import Student, check_pixels
from aligned_vq.errors import ConfigError
from aligned_vq.images.modality import Modality

NARROW = 0.25


@dataclass(frozen=True)
class NarrowRange:
    """A modality that uses a small part of a range which it shares with another.

    Attributes:
        layer: whose input it is.
        modality: the one with the narrow range.
        share: width of its range over the width of the widest modality's.
    """

    layer: str
    modality: Modality
    share: float


class QuantizedStudent(nn.Module):
    """A student with fake quantization; without training it is post-training quantization.

    Its state holds weights, ranges and whether they were calibrated. It fits another instance that
    was made of the same configuration.

    Args:
        student: its weights are copied.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.config = student.config
        self.graph = prepare(student, student.config)
        self._activations = activations(self.graph)
        self.train(student.training)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings `[B, D]` of length 1, float32, of normalised pixels `[B, 3, H, W]`.

        Before calibration only the weights are rounded.

        Raises:
            ConfigError: the pixels have another shape.
        """
        check_pixels(self.config, pixels)
        embedding: Tensor = self.graph(pixels)
        return embedding

    def train(self, mode: bool = True) -> QuantizedStudent:
        """Switch stochastic depth on or off."""
        # The graph's own modules have no modes, and torchao forbids to set them.
        self.training = mode
        set_dropout(self.graph, mode)
        return self

    @property
    def is_calibrated(self) -> bool:
        """Whether the ranges are fixed."""
        return all(bool(one.calibrated) for one in self._activations.values())

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Mapping[Modality, Tensor]]) -> None:
        """Fix the ranges of activations.

        Args:
            batches: normalised pixels `[B, 3, H, W]` by modality.

        Raises:
            ConfigError: there are no images, or a modality is unknown.
        """
        was_training = self.training
        self.eval()
        try:
            count = sum(self._observe(batch) for batch in batches)
            if not count:
                raise ConfigError("calibration needs at least one image, got none; give more data")
            for activation in self._activations.values():
                activation.freeze()
        finally:
            for activation in self._activations.values():
                activation.forget()  # after an error, too
            self.train(was_training)

    def _observe(self, batch: Mapping[Modality, Tensor]) -> int:
        """Record the activations of a batch; returns its number of images."""
        for modality, pixels in batch.items():
            if modality not in MODALITIES:
                raise ConfigError(
                    f"unknown modality {modality!r}; choose one of {', '.join(MODALITIES)}"
                )
            for activation in self._activations.values():
                activation.observe(modality)
            self(pixels)
        return sum(len(pixels) for pixels in batch.values())

    def ranges(self) -> dict[str, dict[Modality, tuple[float, float]]]:
        """Smallest and largest input of each layer in calibration, by modality."""
        return {
            layer: {
                modality: (float(low), float(high))
                for modality, (low, high) in zip(
                    MODALITIES, activation.extremes.tolist(), strict=True
                )
                if low == low  # NaN: not seen
            }
            for layer, activation in self._activations.items()
        }

    def narrow_ranges(self, share: float = NARROW) -> list[NarrowRange]:
        """Where a modality uses less than `share` of the range of the widest modality.

        Such a modality is rounded coarsely: most of the 256 steps are outside of its values.
        """
        narrow = []
        for layer, by_modality in self.ranges().items():
            widths = {modality: high - low for modality, (low, high) in by_modality.items()}
            widest = max(widths.values(), default=0.0)
            narrow += [
                NarrowRange(layer, modality, width / widest)
                for modality, width in widths.items()
                if width < share * widest
            ]
        return narrow

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Put a saved state back.

        Raises:
            ConfigError: the state is of a student with another configuration.
        """
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"the state does not fit this {self.config.architecture} student ({reason}); build "
                "the student with the configuration of the saved one"
            ) from error

    def export_onnx(self, path: Path) -> None:
        """Write the int8 graph: `pixels` `[B, 3, H, W]` to `embedding` `[B, D]`, both float32.

        Raises:
            ConfigError: the student was not calibrated.
            NotWritten: the disk is full or read-only.
        """
        if not self.is_calibrated:
            raise ConfigError("the ranges are not fixed; call calibrate before export_onnx")
        write_program(convert(self.graph, self.config), path)
