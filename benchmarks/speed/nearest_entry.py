"""Nearest-entry search on the CPU: ours, faiss and vector-quantize-pytorch in one run.

Searches the 577 latents of one image, of width 32, in 4,096 entries. A ratio is the median time of
a search over that of ours, so 1 or more means that ours is at least as fast. The indices of every
search are compared with a search in float64; only ties may differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import faiss
import torch
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import cdist

from aligned_vq.quantizer.codebook import Codebook

TOKENS, ENTRIES, DIM = 577, 4096, 32
CALLS_PER_ROUND = 5
_SETTLE_S = 0.005
Search = Callable[[], Tensor]


@dataclass(frozen=True)
class Differences:
    """How the indices of a search differ from those of float64."""

    indices: int
    """Number of indices that differ."""
    beyond_ties: int
    """Number of those whose float64 distances differ by more than the rounding of float32."""
    largest_gap: float
    """Largest relative excess of the squared distance over the smallest one."""


def differences(latents: Tensor, entries: Tensor, indices: Tensor) -> Differences:
    """Compare indices `[N]` of latents `[N, dim]` with a float64 search.

    Two entries tie if their float64 distances differ by less than the sum of the error bounds of
    the float32 scores `|c|^2 - 2 x.c`, which is `(dim + 2) u (|c|^2 + 2 |x| |c|)`, u = 2^-24, each.
    """
    exact, table = latents.double(), entries.double()
    # Not by |c|^2 - 2 x.c, whose cancellation the reference would share with the tested searches.
    distances = torch.cdist(exact, table, compute_mode="donot_use_mm_for_euclid_dist").square()
    least, nearest = distances.min(1)
    gap = distances.gather(1, indices[:, None])[:, 0] - least
    norms = table.norm(dim=1)
    scale = norms.square() + 2 * exact.norm(dim=1, keepdim=True) * norms
    unit = torch.finfo(torch.float32).eps / 2
    bound = (entries.shape[1] + 2) * unit * scale
    allowed = bound.gather(1, torch.stack([indices, nearest], dim=1)).sum(1)
    differs = indices != nearest
    relative = (gap / least.clamp(min=torch.finfo(torch.float64).tiny))[differs]
    return Differences(
        indices=int(differs.sum()),
        beyond_ties=int((differs & (gap > allowed)).sum()),
        largest_gap=float(relative.max()) if len(relative) else 0.0,
    )


def searches(latents: Tensor, entries: Tensor) -> dict[str, Search]:
    """All searches over the same entries by name, ours first."""
    ours = Codebook(*entries.shape).eval().requires_grad_(False)
    ours.entries.copy_(entries)
    index = faiss.IndexFlatL2(entries.shape[1])
    index.add(entries.numpy())
    queries = latents.numpy()
    default_threshold = faiss.cvar.distance_compute_blas_threshold

    def search_faiss(threshold: int) -> Tensor:
        faiss.cvar.distance_compute_blas_threshold = threshold
        return torch.from_numpy(index.search(queries, 1)[1][:, 0])

    theirs = VectorQuantize(dim=entries.shape[1], codebook_size=len(entries))
    theirs.eval().requires_grad_(False)
    theirs.codebook = entries
    batch, table = latents[None], entries[None]
    return {
        "ours": lambda: ours.encode(latents),
        "faiss": lambda: search_faiss(default_threshold),
        # Below the threshold faiss scans entry by entry; 0 makes it multiply matrices, as older
        # releases did for 20 or more queries. With few threads that is its fastest method.
        "faiss, by matrices": lambda: search_faiss(0),
        "vector-quantize-pytorch": lambda: theirs(batch)[1][0],
        # Only the search: the distances and the argmax of its forward pass.
        "vector-quantize-pytorch, search": lambda: (-cdist(batch, table)).argmax(-1)[0],
    }


def measured_times(contenders: Mapping[str, Search], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every call, by search; searches are interleaved, in rotating order."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(rounds):
        order.append(order.pop(0))
        for name in order:
            # torch and faiss have separate OpenMP runtimes: idle threads of one spin for a while
            # before they sleep, and would slow down the other.
            time.sleep(_SETTLE_S)
            contenders[name]()
            for _ in range(CALLS_PER_ROUND):
                start = time.perf_counter()
                contenders[name]()
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def main() -> int:
    """Print the figures; exits with 1 if our indices differ from float64's beyond ties."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2, help="threads of every library")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    noise = torch.Generator().manual_seed(0)
    latents = torch.randn(TOKENS, DIM, generator=noise)
    entries = torch.randn(ENTRIES, DIM, generator=noise)
    with torch.inference_mode():
        contenders = searches(latents, entries)
        by_search = {
            name: differences(latents, entries, search()) for name, search in contenders.items()
        }
        times = measured_times(contenders, options.rounds)
    beyond_ties = by_search["ours"].beyond_ties
    medians = {name: statistics.median(values) for name, values in times.items()}
    # Shows the time without other load; a median far above it was measured on a busy machine.
    fastest = {name: min(values) for name, values in times.items()}
    ratios = {name: ms / medians["ours"] for name, ms in medians.items()}
    figures = {
        "tokens": TOKENS,
        "entries": ENTRIES,
        "dim": DIM,
        "threads": options.threads,
        "median_ms": {name: round(ms, 3) for name, ms in medians.items()},
        "fastest_ms": {name: round(ms, 3) for name, ms in fastest.items()},
        "ratio": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "differences": {name: asdict(difference) for name, difference in by_search.items()},
    }
    if options.json:
        print(json.dumps(figures))
    else:
        print(f"{TOKENS} x {DIM} against {ENTRIES} entries, {options.threads} threads, float32")
        print(f"{'search':<33}{'median':>10}{'fastest':>11}{'ratio':>7}{'differ':>8}{'gap':>7}")
        for name, difference in by_search.items():
            print(
                f"{name:<33}{medians[name]:>7.3f} ms{fastest[name]:>8.3f} ms{ratios[name]:>7.2f}"
                f"{difference.indices:>8}{difference.largest_gap:>7.0e}"
            )
        print(f"indices of ours that differ from float64's beyond ties: {beyond_ties}")
    return 1 if beyond_ties else 0


if __name__ == "__main__":
    sys.exit(main())
