"""The pure Python range coder against constriction's: identical bytes, and the time of each.

Both encode messages of random models and symbols and decode the words; then each codes payloads of
577 tokens, with static tables and with contexts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from aligned_vq.bitstream import EntropyTables, EntryClasses, coders, pack, unpack
from aligned_vq.bitstream.coders import PURE, Coder
from aligned_vq.types import Encoded, QuantizerConfig, StageIndices

Kind = Literal["categorical", "uniform", "bernoulli"]
TOKENS = 577
TARGET_MS = 5.0


@dataclass(frozen=True)
class Step:
    """Symbols coded under one model, which `parameter` defines."""

    kind: Kind
    parameter: Any
    symbols: NDArray[np.int32]

    def model(self, coder: Coder) -> Any:
        """The model in an implementation of the coder."""
        return getattr(coder, self.kind)(self.parameter)


def random_steps(random: np.random.Generator) -> list[Step]:
    """A random message: up to twelve models, flat or skewed, with likely or unlikely symbols."""
    steps = []
    for _ in range(random.integers(0, 13)):
        kind = get_args(Kind)[random.integers(3)]
        parameter: Any
        if kind == "categorical":
            size = int(random.choice([2, 3, 64, 700, 4096]))
            # The higher the power, the more skewed; a power of 0 is flat.
            weights = random.exponential(1.0, size) ** random.integers(0, 9)
            # Integers, none of them 0: every symbol must have a code.
            parameter = np.clip(np.floor(1000 * weights), 1, 1 << 24)
        elif kind == "uniform":
            parameter = size = int(random.integers(2, 700))
        else:
            tokens, size = int(random.integers(1, 600)), 2
            # Never 0 or 1, for the same reason; the form of a mask's model in the bitstream.
            parameter = float((random.integers(tokens + 1) + 0.5) / (tokens + 1))
        amount = int(random.integers(0, 60))
        symbols = random.integers(0, size, amount)
        if kind == "categorical" and random.random() < 0.5:
            # Likely symbols in half of the cases: uniform ones are mostly unlikely.
            symbols = random.choice(size, amount, p=parameter / parameter.sum())
        elif random.random() < 0.3:
            symbols = random.choice([0, size - 1], amount)
        steps.append(Step(kind, parameter, symbols.astype(np.int32)))
    return steps


def encoded(steps: Sequence[Step], coder: Coder) -> NDArray[np.uint32]:
    """The compressed words of a message."""
    encoder = coder.encoder()
    for step in steps:
        encoder.encode(step.symbols, step.model(coder))
    words: NDArray[np.uint32] = encoder.get_compressed()
    return words


def first_difference(steps: Sequence[Step], first: Coder, second: Coder) -> str | None:
    """The first thing in which two implementations differ for a message; None: they agree."""
    words = encoded(steps, first)
    if words.tolist() != encoded(steps, second).tolist():
        return "words"
    for coder in (first, second):
        decoder = coder.decoder(words)
        for step in steps:
            symbols = decoder.decode(step.model(coder), len(step.symbols))
            if symbols.tolist() != step.symbols.tolist():
                return f"symbols of {coder.name}"
    return None


def images(config: QuantizerConfig, number: int) -> list[Encoded]:
    """`number` images of 577 tokens with a skewed distribution of indices."""
    random = np.random.default_rng(0)
    encoded_images = []
    for _ in range(number):
        skewed = [size * random.beta(1, 4, (TOKENS, 1)) for size in config.codebook_sizes]
        stages = [StageIndices(indices.astype(np.int32)) for indices in skewed]
        encoded_images.append(Encoded(TOKENS, tuple(stages)))
    return encoded_images


def neighbour_classes(config: QuantizerConfig) -> list[EntryClasses]:
    """Classes of entries for each stage: 64 symbols and four classes of consecutive entries."""
    classes = []
    for size in config.codebook_sizes:
        entry = np.arange(size)[None]
        symbol_of, class_of = entry * 64 // size, entry * 4 // size
        classes.append(EntryClasses(symbol_of.astype(np.uint16), class_of.astype(np.uint8)))
    return classes


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """Median milliseconds of one call, after one to warm up."""
    work()
    times = []
    for _ in range(rounds):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return 1000 * median(times)


def times_of(coder: Coder, rounds: int) -> dict[str, float]:
    """Milliseconds to pack and to unpack a payload of 577 tokens, by coding and geometry."""
    # The implementation that `pack` and `unpack` use.
    coders.CODER = coder
    medians_ms = {}
    for sizes in ((4096,), (4096, 64)):
        config = QuantizerConfig(dim=1024, codebook_dim=32, codebook_sizes=sizes)
        image, *examples = images(config, 9)
        tables = EntropyTables.from_examples(examples, config, neighbour_classes(config))
        for coding in ("range", "context"):
            payload = pack(image, config, tables, bytes(16), coding)
            name = f"{coding}, {len(sizes)} stages, {len(payload.body)} B"
            packs = partial(pack, image, config, tables, bytes(16), coding)
            unpacks = partial(unpack, payload, config, TOKENS, False, tables)
            medians_ms[f"pack: {name}"] = milliseconds(packs, rounds)
            medians_ms[f"unpack: {name}"] = milliseconds(unpacks, rounds)
    return medians_ms


def main() -> int:
    """Print the report as JSON; exits with 1 after a difference or if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    compiled = coders.compiled()
    report: dict[str, Any] = {}
    if compiled is not None:
        random = np.random.default_rng(options.seed)
        differences = [
            first_difference(random_steps(random), PURE, compiled)
            # None shows no bar where there is no terminal.
            for _ in tqdm(range(options.messages), desc="messages", disable=None)
        ]
        report["messages"] = len(differences)
        report["different"] = sum(difference is not None for difference in differences)
        report["constriction_ms"] = times_of(compiled, options.rounds)
    report["ms"] = times_of(PURE, options.rounds)
    print(json.dumps(report, indent=2))
    slow = max(report["ms"].values()) > TARGET_MS
    return int(slow or bool(report.get("different")))


if __name__ == "__main__":
    sys.exit(main())
