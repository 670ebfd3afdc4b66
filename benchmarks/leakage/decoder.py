"""A small decoder from the features that the cloud holds of an image back to its pixels.

A linear map of each token, fitted by least squares, plus a few convolutions over the grid of
tokens, trained with Adam on the squared error. The convolutions contribute nothing at first, so
that a short training is spent on the nonlinear part.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aligned_vq.training.loop import LoopSettings, Loss, StepReport, TrainingLoop

RIDGE = 1e-4
"""Regularisation of the least squares, relative to the mean square of an input."""
BATCH = 16
LEARNING_RATE = 2e-3
WARM_UP_STEPS = 5


class PixelDecoder(nn.Module):
    """Features `[B, 1 + G * G, D]`, the class token first, to images `[B, 3, S, S]`.

    Values are about 0 to 1, not clipped; S is G times `pixels_per_token`.

    Args:
        dim: D.
        grid: G, patches along a side.
        pixels_per_token: pixels along a side of a token.
        width: channels of the convolutions.
        blocks: number of residual blocks, each a convolution of 3 x 3 tokens.
        seed: of the initial weights.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, dim: int, grid: int, pixels_per_token: int, width: int, blocks: int, seed: int
    ) -> None:
        super().__init__()
        self.grid = grid
        self.pixels_per_token = pixels_per_token
        values = 3 * pixels_per_token**2
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        # The weights depend on the seed, and the caller's random numbers stay unchanged.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear = nn.Linear(dim, values)
            self.patches = nn.Conv2d(dim, width, 1)
            self.whole = nn.Linear(dim, width)
            self.blocks = nn.Sequential(*(_Block(width) for _ in range(blocks)))
            self.rest = nn.Conv2d(width, values, 1)
        # `fit_linear` sets the one; the other starts at 0 and adds nothing before it is trained.
        for parameter in (*self.linear.parameters(), *self.rest.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Images `[B, 3, S, S]` float32."""
        tokens = (features.float() - self.mean) / self.scale  # [B, 1 + G * G, D]
        # [B, D, G, G], without the class token.
        patches = torch.unflatten(tokens[:, 1:].transpose(1, 2), 2, (self.grid, self.grid))
        # [B, width, G, G]: the class token informs every place alike.
        hidden = self.patches(patches) + self.whole(tokens[:, 0])[:, :, None, None]
        values = self.linear(tokens[:, 1:]).transpose(1, 2)  # [B, 3 p p, G * G]
        linear = torch.unflatten(values, 2, (self.grid, self.grid))
        values = linear + self.rest(self.blocks(hidden))
        # [B, 3 p p, G, G] to [B, 3, G p, G p], with p pixels per token.
        return F.pixel_shuffle(values, self.pixels_per_token)

    @torch.no_grad()
    def fit_linear(self, features: Tensor, images: Tensor) -> None:
        """Set the scale of the inputs, and fit the linear map by least squares.

        `features` are `[M, 1 + G * G, D]`, `images` `[M, 3, S, S]` uint8.
        """
        flat = features.flatten(0, 1).float()
        self.mean.copy_(flat.mean(0))
        # The clamp spares constant dimensions a division by 0.
        self.scale.copy_(flat.std(0).clamp_min(1e-4))
        # Sums of the normal equations, by batch: [D + 1, D + 1] and [D + 1, 3 p p].
        gram, cross = torch.zeros(()), torch.zeros(())
        batches = zip(torch.split(features, BATCH), torch.split(images, BATCH), strict=True)
        for batch, targets in batches:
            tokens = (batch[:, 1:].float() - self.mean) / self.scale
            # [b * G * G, D + 1]: the column of ones belongs to the bias.
            inputs = F.pad(tokens, (0, 1), value=1).flatten(0, 1)
            values = F.pixel_unshuffle(_unit(targets), self.pixels_per_token)
            gram = gram + inputs.T @ inputs
            cross = cross + inputs.T @ values.flatten(2).transpose(1, 2).flatten(0, 1)
        rows = len(features) * self.grid**2
        # In float64, as the normal equations square the condition number.
        solved = torch.linalg.solve(
            gram.double() + RIDGE * rows * torch.eye(len(gram)), cross.double()
        )
        self.linear.weight.copy_(solved[:-1].T)
        self.linear.bias.copy_(solved[-1])


@dataclass
class _DecoderTask:
    decoder: PixelDecoder
    features: Tensor
    images: Tensor
    seed: int
    optimiser: torch.optim.Optimizer = field(init=False)
    losses: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.Adam(self.decoder.parameters(), LEARNING_RATE)

    def batches(self, first: int, end: int) -> Generator[Tensor, None, None]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(first, end):
            yield torch.randperm(len(self.features), generator=generator)[:BATCH]

    def loss(self, step: int, batch: Tensor) -> Loss:
        images = _unit(self.images[batch])
        return F.mse_loss(self.decoder(self.features[batch]), images), {}

    def after_step(self, report: StepReport) -> None:
        self.losses.append(report.metrics["loss"])


def train(
    decoder: PixelDecoder, features: Tensor, images: Tensor, steps: int, seed: int, label: str
) -> list[float]:
    """Fit the linear map, then train everything by gradient; returns the loss of every step.

    Args:
        decoder: trained in place.
        features: `[M, 1 + G * G, D]`.
        images: `[M, 3, S, S]` uint8.
        steps: of Adam, each on `BATCH` random images.
        seed: of the choice of images.
        label: of the progress bar.

    Raises:
        TrainingError: a loss is not finite.
    """
    decoder.fit_linear(features, images)
    decoder.train()
    task = _DecoderTask(decoder, features, images, seed)
    settings = LoopSettings(label, steps, WARM_UP_STEPS, max_gradient_norm=None, leave_bar=False)
    TrainingLoop(task, settings).run()
    decoder.eval()
    return task.losses


@torch.inference_mode()
def recover(decoder: PixelDecoder, features: Tensor) -> Tensor:
    """Images `[M, 3, S, S]` uint8 of features `[M, 1 + G * G, D]`."""
    decoder.eval()
    batches = [
        decoder(batch).mul(255).round().clamp(0, 255) for batch in torch.split(features, BATCH)
    ]
    return torch.cat(batches).to(torch.uint8)


class _Block(nn.Module):
    """A convolution of 3 x 3 tokens, added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)  # of each image, whatever the batch
        self.mix = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        mixed: Tensor = hidden + self.mix(F.gelu(self.norm(hidden)))
        return mixed


def _unit(images: Tensor) -> Tensor:
    return images.float() / 255
