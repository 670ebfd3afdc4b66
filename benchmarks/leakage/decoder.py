"""A small decoder from what the cloud holds of a picture back to its pixels.

A linear map of each token, by least squares, plus a few convolutions over the grid of tokens,
trained with Adam on the squared error. The convolutions start as nothing, so that a short training
is spent on what is not linear.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from aligned_vq.training.schedule import warm_cosine

RIDGE = 1e-4
"""Of the least squares, against the mean square of an input."""
BATCH = 16
LEARNING_RATE = 2e-3
WARM_UP_STEPS = 5


class PixelDecoder(nn.Module):
    """Features `[B, 1 + G * G, D]`, the class token first, to pictures `[B, 3, S, S]`.

    Values are from 0 to 1, more or less; S is G times `pixels_per_token`.

    Args:
        dim: D.
        grid: G, patches along a side.
        pixels_per_token: along a side.
        width: channels of the convolutions.
        blocks: convolutions of 3 x 3 tokens.
        seed: of their first weights.
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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear = nn.Linear(dim, values)
            self.patches = nn.Conv2d(dim, width, 1)
            self.whole = nn.Linear(dim, width)
            self.blocks = nn.Sequential(*(_Block(width) for _ in range(blocks)))
            self.rest = nn.Conv2d(width, values, 1)
        for own in (*self.linear.parameters(), *self.rest.parameters()):
            nn.init.zeros_(own)

    def forward(self, features: Tensor) -> Tensor:
        """Pictures `[B, 3, S, S]` float32."""
        tokens = (features.float() - self.mean) / self.scale
        patches = torch.unflatten(tokens[:, 1:].transpose(1, 2), 2, (self.grid, self.grid))
        hidden = self.patches(patches) + self.whole(tokens[:, 0])[:, :, None, None]
        values = self.linear(tokens[:, 1:]).transpose(1, 2)
        linear = torch.unflatten(values, 2, (self.grid, self.grid))
        values = linear + self.rest(self.blocks(hidden))
        return F.pixel_shuffle(values, self.pixels_per_token)

    @torch.no_grad()
    def fit_linear(self, features: Tensor, pictures: Tensor) -> None:
        """Set the scale of the inputs, and the linear map by least squares.

        `features` are `[M, 1 + G * G, D]`, `pictures` `[M, 3, S, S]` uint8.
        """
        flat = features.flatten(0, 1).float()
        self.mean.copy_(flat.mean(0))
        self.scale.copy_(flat.std(0).clamp_min(1e-4))
        gram, cross = torch.zeros(()), torch.zeros(())
        for own, seen in zip(
            torch.split(features, BATCH), torch.split(pictures, BATCH), strict=True
        ):
            tokens = (own[:, 1:].float() - self.mean) / self.scale
            inputs = F.pad(tokens, (0, 1), value=1).flatten(0, 1)
            values = F.pixel_unshuffle(_unit(seen), self.pixels_per_token)
            gram = gram + inputs.T @ inputs
            cross = cross + inputs.T @ values.flatten(2).transpose(1, 2).flatten(0, 1)
        rows = len(features) * self.grid**2
        solved = torch.linalg.solve(
            gram.double() + RIDGE * rows * torch.eye(len(gram)), cross.double()
        )
        self.linear.weight.copy_(solved[:-1].T)
        self.linear.bias.copy_(solved[-1])


def train(
    decoder: PixelDecoder, features: Tensor, pictures: Tensor, steps: int, seed: int, label: str
) -> list[float]:
    """Fit the linear map, then everything by gradient; returns the loss of every step.

    Args:
        decoder: trained in place.
        features: `[M, 1 + G * G, D]`.
        pictures: `[M, 3, S, S]` uint8.
        steps: of Adam, each with `BATCH` pictures drawn anew.
        seed: of what is drawn.
        label: of the progress bar.
    """
    decoder.fit_linear(features, pictures)
    decoder.train()
    optimizer = torch.optim.Adam(decoder.parameters(), LEARNING_RATE)
    draw = torch.Generator().manual_seed(seed)
    losses = []
    for step in tqdm(range(steps), desc=label, unit="step", leave=False):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warm_cosine(step, steps, WARM_UP_STEPS)
        chosen = torch.randperm(len(features), generator=draw)[:BATCH]
        loss = F.mse_loss(decoder(features[chosen]), _unit(pictures[chosen]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    decoder.eval()
    return losses


@torch.inference_mode()
def recover(decoder: PixelDecoder, features: Tensor) -> Tensor:
    """Pictures `[M, 3, S, S]` uint8 of features `[M, 1 + G * G, D]`."""
    decoder.eval()
    seen = [decoder(own).mul(255).round().clamp(0, 255) for own in torch.split(features, BATCH)]
    return torch.cat(seen).to(torch.uint8)


class _Block(nn.Module):
    """A convolution of 3 x 3 tokens, added to what it reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.mix = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        mixed: Tensor = hidden + self.mix(F.gelu(self.norm(hidden)))
        return mixed


def _unit(pictures: Tensor) -> Tensor:
    return pictures.float() / 255
