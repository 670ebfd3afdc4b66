"""The range coder of plain integers beside constriction's: the same bytes, and what each costs.

Messages of random models and symbols are encoded by both and decoded from each other's words; then
a payload of 577 tokens is coded by each, under static tables and under contexts.
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
LIMIT_MS = 5.0


@dataclass(frozen=True)
class Step:
    """Symbols under one model; `parameter` makes it."""

    kind: Kind
    parameter: Any
    symbols: NDArray[np.int32]

    def model(self, coder: Coder) -> Any:
        """This implementation's."""
        return getattr(coder, self.kind)(self.parameter)


def random_steps(random: np.random.Generator) -> list[Step]:
    """A message: up to twelve models, even or steep, with likely or unlikely symbols."""
    steps = []
    for _ in range(random.integers(0, 13)):
        kind = get_args(Kind)[random.integers(3)]
        parameter: Any
        if kind == "categorical":
            size = int(random.choice([2, 3, 64, 700, 4096]))
            steepness = random.exponential(1.0, size) ** random.integers(0, 9)
            parameter = np.clip(np.floor(1000 * steepness), 1, 1 << 24)
        elif kind == "uniform":
            parameter = size = int(random.integers(2, 700))
        else:
            tokens, size = int(random.integers(1, 600)), 2
            parameter = float((random.integers(tokens + 1) + 0.5) / (tokens + 1))
        amount = int(random.integers(0, 60))
        symbols = random.integers(0, size, amount)
        if kind == "categorical" and random.random() < 0.5:
            symbols = random.choice(size, amount, p=parameter / parameter.sum())
        elif random.random() < 0.3:
            symbols = random.choice([0, size - 1], amount)
        steps.append(Step(kind, parameter, symbols.astype(np.int32)))
    return steps


def encoded(steps: Sequence[Step], coder: Coder) -> NDArray[np.uint32]:
    """A message's words."""
    encoder = coder.encoder()
    for step in steps:
        encoder.encode(step.symbols, step.model(coder))
    words: NDArray[np.uint32] = encoder.get_compressed()
    return words


def differs(steps: Sequence[Step], first: Coder, second: Coder) -> str | None:
    """What two implementations make differently of a message; None: nothing."""
    words = encoded(steps, first)
    if words.tolist() != encoded(steps, second).tolist():
        return "words"
    for coder in (first, second):
        decoder = coder.decoder(words)
        for step in steps:
            found = decoder.decode(step.model(coder), len(step.symbols))
            if found.tolist() != step.symbols.tolist():
                return f"symbols of {coder.name}"
    return None


def images(config: QuantizerConfig, number: int) -> list[Encoded]:
    """Images of 577 tokens with some indices far likelier than others."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(number):
        skewed = [size * random.beta(1, 4, (TOKENS, 1)) for size in config.codebook_sizes]
        stages = [StageIndices(indices.astype(np.int32)) for indices in skewed]
        found.append(Encoded(TOKENS, tuple(stages)))
    return found


def alike(config: QuantizerConfig) -> list[EntryClasses]:
    """64 symbols and four classes of neighbouring entries."""
    found = []
    for size in config.codebook_sizes:
        entry = np.arange(size)[None]
        symbol_of, class_of = entry * 64 // size, entry * 4 // size
        found.append(EntryClasses(symbol_of.astype(np.uint16), class_of.astype(np.uint8)))
    return found


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """Median time of one call."""
    work()
    times = []
    for _ in range(rounds):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return 1000 * median(times)


def times_of(coder: Coder, rounds: int) -> dict[str, float]:
    """Milliseconds to pack and to unpack a payload of 577 tokens, by coding and geometry."""
    coders.CODER = coder
    found = {}
    for sizes in ((4096,), (4096, 64)):
        config = QuantizerConfig(dim=1024, codebook_dim=32, codebook_sizes=sizes)
        image, *examples = images(config, 9)
        tables = EntropyTables.from_examples(examples, config, alike(config))
        for coding in ("range", "context"):
            payload = pack(image, config, tables, bytes(16), coding)
            name = f"{coding}, {len(sizes)} stages, {len(payload.body)} B"
            packs = partial(pack, image, config, tables, bytes(16), coding)
            unpacks = partial(unpack, payload, config, TOKENS, False, tables)
            found[f"pack: {name}"] = milliseconds(packs, rounds)
            found[f"unpack: {name}"] = milliseconds(unpacks, rounds)
    return found


def main() -> int:
    """Print the report as JSON; exit 1 if anything differs or takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    compiled = coders.compiled()
    report: dict[str, Any] = {}
    if compiled is not None:
        random = np.random.default_rng(options.seed)
        found = [
            differs(random_steps(random), PURE, compiled)
            for _ in tqdm(range(options.messages), desc="messages", disable=None)
        ]
        report["messages"] = len(found)
        report["different"] = sum(each is not None for each in found)
        report["constriction_ms"] = times_of(compiled, options.rounds)
    report["ms"] = times_of(PURE, options.rounds)
    print(json.dumps(report, indent=2))
    slow = max(report["ms"].values()) > LIMIT_MS
    return int(slow or bool(report.get("different")))


if __name__ == "__main__":
    sys.exit(main())
