"""Training batches that depend only on seed, stage and step, so that resumed runs see the same."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aligned_vq.data.examples import Example, ExampleSource
from aligned_vq.images.preprocess import preprocess_batch
from aligned_vq.images.processor import ProcessorSettings
from aligned_vq.llava.packing import PackedText, Packer

BatchT = TypeVar("BatchT")


class Batch(NamedTuple):
    """One process's part of a step's batch."""

    pixels: Tensor
    """`[B, 3, H, W]` float32."""
    text: PackedText | None
    """None if there are no questions, or the stage needs none."""
    picked: Tensor
    """int64 `[B]`: positions of these images in the batch of all processes."""


@dataclass(frozen=True)
class Steps(Dataset[Batch]):
    """The batches of one training stage by step number, for one of several processes."""

    source: ExampleSource
    settings: ProcessorSettings
    """The checkpoint's image-processor settings."""
    packer: Packer | None
    batch_size: int
    """Images of all processes together."""
    pairs_per_image: int
    seed: int
    stage: int
    rank: int = 0
    processes: int = 1

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        # All processes draw the whole step, and each loads its positions.
        rng = np.random.default_rng([self.seed, self.stage, step])
        indices = rng.integers(0, len(self.source), self.batch_size)
        positions = np.arange(self.rank, self.batch_size, self.processes)
        examples = [self.source[int(indices[position])] for position in positions]
        pixels = preprocess_batch((example.image for example in examples), self.settings)
        return Batch(
            torch.from_numpy(pixels),
            self._text(examples, step, positions),
            torch.from_numpy(positions),
        )

    def _text(
        self, examples: list[Example], step: int, positions: NDArray[np.int64]
    ) -> PackedText | None:
        if self.packer is None or not any(example.pairs for example in examples):
            return None
        rows = []
        for example, position in zip(examples, positions, strict=True):
            # Seeded by the position, so that questions do not depend on the number of processes.
            rng = np.random.default_rng([self.seed, self.stage, step, 2, int(position)])
            order = rng.permutation(len(example.pairs))[: self.pairs_per_image]
            rows.append([example.pairs[i] for i in order])
        return self.packer.pack(rows)

    def loader(self, first: int, end: int, workers: int) -> Iterator[Batch]:
        """The batches of steps `first` to `end`, exclusive, prefetched by `workers` processes."""
        return iter(
            DataLoader(
                self,
                batch_size=None,  # an item already is a batch
                sampler=range(first, end),
                num_workers=workers,
                # Forked workers would inherit the state of threads and of CUDA.
                multiprocessing_context="spawn" if workers else None,
            )
        )


def prefetched(
    batch_of: Callable[[int], BatchT], first: int, end: int
) -> Generator[BatchT, None, None]:
    """The batches of steps `first` to `end`, exclusive.

    `batch_of` makes the batch of a step, in a thread, while the batch before it is in use.
    """
    with ThreadPoolExecutor(1) as thread:
        upcoming = (thread.submit(batch_of, step) for step in range(first, end))
        current = next(upcoming, None)
        while current is not None:
            # The next batch is made while the caller uses this one.
            batch, current = current.result(), next(upcoming, None)
            yield batch
