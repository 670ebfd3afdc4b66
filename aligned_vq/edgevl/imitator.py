"""A student in stage 1: it may imitate what the teacher sees at each place, beside the whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aligned_vq.edgevl.students.build import Student


class Imitator(nn.Module):
    """A student, and a layer that predicts the teacher's tokens from the student's.

    The published students start from weights that were trained on ImageNet. A student with random
    weights learns many times as fast if it is told what is where (hints: FitNets, ICLR 2015). The
    layer is not part of the trained student.

    Args:
        student: trained in place.
        token_width: of the teacher's tokens; None: tokens are not imitated.
        seed: of the layer's weights.
    """

    def __init__(self, student: Student, token_width: int | None, seed: int) -> None:
        super().__init__()
        self.student = student
        self.side = student.config.grids[-1]
        self.to_teacher: nn.Linear | None = None
        if token_width is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.to_teacher = nn.Linear(student.config.widths[-1], token_width)
            if student.config.architecture == "clip":
                # It has the teacher's tokens at the start.
                nn.init.eye_(self.to_teacher.weight)
                nn.init.zeros_(self.to_teacher.bias)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings `[B, D]` of length 1, and predicted tokens `[B, W, side, side]`."""
        tokens = self.student.tokens(pixels)
        embeddings = self.student.embedding(tokens)
        if self.to_teacher is None:
            return embeddings, None
        grid = self.to_teacher(tokens[:, -(self.side**2) :])
        return embeddings, grid.transpose(1, 2).unflatten(2, (self.side, self.side))


def token_errors(predicted: Tensor, wanted: Tensor) -> Tensor:
    """1 - cosine between tokens, averaged over the places of each image: `[B]`.

    Args:
        predicted: `[B, W, side, side]`.
        wanted: `[B, W, rows, columns]`, of the same crops; brought to zero mean over the width,
            and to the grid of `predicted`.
    """
    centred = wanted - wanted.mean(1, keepdim=True)
    # As long as each other: some tokens of a transformer are many times as long as the rest.
    unit = F.normalize(centred, dim=1)
    resized = F.interpolate(
        unit, predicted.shape[2:], mode="bilinear", align_corners=False, antialias=True
    )
    return 1 - F.cosine_similarity(predicted.float(), resized, dim=1).mean((1, 2))
