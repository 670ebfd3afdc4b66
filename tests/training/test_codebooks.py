"""What codebooks learn beside gradients, on choices made by hand."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor

from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.quantizer.residual import StageChoice
from aligned_vq.training.codebooks import (
    SENSITIVITY_RANGE,
    START_TOKENS,
    CodebookState,
    CodebookUpdater,
    LatentSensitivity,
)
from aligned_vq.training.config import CodebookConfig
from aligned_vq.types import FeatureSpec, QuantizerConfig

DECAY = 0.5


def updater_of(
    sizes: tuple[int, ...] = (4,), groups: int = 1, **settings: object
) -> tuple[AlignedVQ, CodebookUpdater]:
    torch.manual_seed(0)
    config = QuantizerConfig(6, 2 * groups, sizes, groups)
    quantizer = AlignedVQ(FeatureSpec(5, 6), config)
    for number in range(len(sizes)):
        for book in quantizer.codebooks.stage(number).codebooks():
            book.entries.data.normal_()
    learns = CodebookConfig(decay=DECAY, **settings)  # type: ignore[arg-type]
    updater = CodebookUpdater(quantizer, learns, lambda t: t, lambda t: t)
    return quantizer, updater


def state_of(updater: CodebookUpdater, number: int = 0) -> CodebookState:
    state = updater.states[number]
    assert isinstance(state, CodebookState)
    return state


def chosen(indices: list[list[int]], width: int = 2, mask: Tensor | None = None) -> StageChoice:
    shaped = torch.tensor(indices)[..., None]
    torch.manual_seed(1)
    return StageChoice(shaped, mask, torch.randn(*shaped.shape[:2], width))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_use_is_a_moving_average_and_gives_the_code_lengths() -> None:
    quantizer, updater = updater_of(revive_every=0)
    updater.update([chosen([[0, 0, 0, 1, 1]])], (0,), None, 0, generator())
    seen = DECAY * START_TOKENS / 4 + (1 - DECAY) * torch.tensor([3.0, 2.0, 0.0, 0.0])
    assert torch.allclose(state_of(updater).seen, seen)
    book = quantizer.codebooks.stage(0).codebooks()[0]
    assert torch.allclose(book.usage, seen + 0.1 * seen.mean())
    for step in range(30):
        updater.update([chosen([[0, 0, 0, 1, 1]])], (0,), None, step, generator())
    lengths = book.length_bits()
    assert lengths[0] < lengths[1] < lengths[2] == lengths[3]
    assert torch.isfinite(lengths).all()


def test_only_tokens_that_a_stage_covers_count() -> None:
    quantizer, updater = updater_of((4, 4), revive_every=0, update="ema")
    mask = torch.tensor([[True, False, True, False, False]])
    choices = [chosen([[0, 1, 2, 3, 0]]), chosen([[1, 2, 1, 3, 3]], mask=mask)]
    for step in range(40):
        updater.update(choices, (0, 1), None, step, generator())
    assert torch.allclose(state_of(updater, 1).seen, torch.tensor([0.0, 2, 0, 0]), atol=1e-5)
    entry = quantizer.codebooks.stage(1).codebooks()[0].entries[1]
    assert torch.allclose(entry, choices[1].inputs[mask].mean(0), atol=1e-5)


def test_a_stage_not_used_learns_nothing() -> None:
    quantizer, updater = updater_of((4, 4), revive_every=1, update="ema")
    before = {n: t.clone() for n, t in quantizer.codebooks.stage(0).state_dict().items()}
    nothing = torch.zeros(1, 5, dtype=torch.bool)
    choices = [chosen([[0] * 5], mask=nothing), chosen([[1] * 5])]
    updater.update(choices, (1,), sensitivity_of(torch.ones(1, 5, 2)), 0, generator())
    after = quantizer.codebooks.stage(0).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_moving_averages_take_entries_to_the_mean_of_what_they_stand_for() -> None:
    quantizer, updater = updater_of(groups=2, update="ema", revive_every=0)
    inputs = torch.randn(2, 5, 4)
    stage = quantizer.codebooks.stage(0)
    indices = stage.encode(inputs)
    for step in range(40):
        choice = StageChoice(indices, None, inputs)
        updater.update([choice], (0,), None, step, generator())
    for group, part in enumerate(inputs.chunk(2, dim=-1)):
        own = indices[..., group]
        for entry in set(own.flatten().tolist()):
            wanted = part[own == entry].mean(0)
            assert torch.allclose(stage.codebooks()[group].entries[entry], wanted, atol=1e-4)


def test_gradient_learning_leaves_entries_to_the_optimiser() -> None:
    quantizer, updater = updater_of(revive_every=0)
    before = quantizer.codebooks.stage(0).codebooks()[0].entries.clone()
    updater.update([chosen([[0, 0, 0, 1, 1]])], (0,), None, 0, generator())
    assert torch.equal(quantizer.codebooks.stage(0).codebooks()[0].entries, before)


def test_dead_entries_move_to_latents_and_are_alive_afterwards() -> None:
    quantizer, updater = updater_of((8,), revive_every=3, revive_below=0.1)
    book = quantizer.codebooks.stage(0).codebooks()[0]
    inputs = torch.randn(4, 5, 2)
    book.entries.data[5:] = 1e3  # nothing is near them
    state_of(updater).seen.zero_()
    dead = []
    for step in range(6):
        indices = quantizer.codebooks.stage(0).encode(inputs)
        choice = StageChoice(indices, None, inputs)
        revived = updater.update([choice], (0,), None, step, generator())
        dead.append(updater.figures()["dead/0"])
        if step == 2:
            ((entries, rows),) = revived
            assert entries is book.entries
            assert set(rows.tolist()) >= {5, 6, 7}
            near = torch.cdist(book.entries[rows], inputs.reshape(-1, 2)).min(1).values
            assert near.max() == 0
    assert dead[1] >= 3 / 8
    assert dead[2] == 0
    used = torch.bincount(quantizer.codebooks.stage(0).encode(inputs).flatten(), minlength=8)
    assert (used[5:] > 0).all()
    assert state_of(updater).seen[5:].min() > 0


def test_revival_takes_the_same_latents_with_the_same_generator_and_waits_for_its_turn() -> None:
    found = []
    for _ in range(2):
        quantizer, updater = updater_of((8,), revive_every=2, revive_below=0.5)
        state_of(updater).seen.copy_(torch.tensor([9.0, 9, 9, 9, 0, 0, 0, 0]))
        for step in range(2):
            revived = updater.update([chosen([[0, 1, 2, 3, 0]])], (0,), None, step, generator())
            assert bool(revived) == (step == 1)
        found.append(quantizer.codebooks.stage(0).codebooks()[0].entries.detach().clone())
    assert torch.equal(*found)


def test_a_stage_that_covered_nothing_revives_nothing() -> None:
    _, updater = updater_of((4, 4), revive_every=1, revive_below=0.9)
    state_of(updater, 1).seen.copy_(torch.tensor([9.0, 0, 0, 0]))
    nothing = torch.zeros(1, 5, dtype=torch.bool)
    choices = [chosen([[0, 1, 2, 3, 0]]), chosen([[0] * 5], mask=nothing)]
    revived = updater.update(choices, (0, 1), None, 0, generator())
    assert all(len(entries) and entries is not None for entries, _ in revived)
    assert state_of(updater, 1).seen[1:].max() == 0


def sensitivity_of(gradient: torch.Tensor, error: float = 1.0) -> LatentSensitivity:
    return LatentSensitivity(gradient, torch.full_like(gradient, error))


def test_importance_is_the_curvature_of_the_losses() -> None:
    """Gradients of `sum(c * error^2) / 2` with errors of several sizes: the size drops out."""
    quantizer, updater = updater_of(revive_every=0)
    book = quantizer.codebooks.stage(0).codebooks()[0]
    choice = chosen([[0, 0, 1, 1, 2]] * 400)
    curvature = torch.tensor([4.0, 4.0, 1.0, 1.0, 1.0])[None, :, None].expand(400, 5, 2)
    error = torch.tensor([1.0, 1.0, 1.0, 1.0, 3.0])[None, :, None].expand(400, 5, 2)
    for step in range(60):  # until nothing is left of the start
        updater.update(
            [choice], (0,), LatentSensitivity(curvature * error, error), step, generator()
        )
    ratios = book.importance[:3] / book.importance[1]
    assert torch.allclose(ratios, torch.tensor([4.0, 1.0, 1.0]), rtol=0.15)
    before = book.importance.clone()
    updater.update([choice], (0,), LatentSensitivity(curvature * 0, error), 0, generator())
    assert torch.equal(book.importance, before)


def test_the_scale_of_gradients_says_nothing() -> None:
    found = []
    for scale in (1e-9, 1e3):
        quantizer, updater = updater_of(revive_every=0)
        gradient = torch.ones(40, 5, 2)
        gradient[:, :2] = 3
        for step in range(4):
            updater.update(
                [chosen([[0, 0, 1, 1, 2]] * 40)],
                (0,),
                sensitivity_of(gradient * scale),
                step,
                generator(),
            )
            scale *= 10  # as between two stages
        found.append(quantizer.codebooks.stage(0).codebooks()[0].importance.clone())
    assert torch.allclose(found[0], found[1], rtol=1e-4)
    assert found[0][0] > 1 > found[0][1]


@pytest.mark.parametrize("scale", [0.0, 1e-18, 1e12])
def test_importance_stays_within_its_range(scale: float) -> None:
    quantizer, updater = updater_of(revive_every=0)
    gradient = torch.zeros(400, 5, 2)
    gradient[0, 0] = scale
    updater.update(
        [chosen([[0, 1, 1, 1, 1]] * 400)], (0,), sensitivity_of(gradient), 0, generator()
    )
    importance = quantizer.codebooks.stage(0).codebooks()[0].importance
    assert 1 / SENSITIVITY_RANGE <= importance.min() <= importance.max() <= SENSITIVITY_RANGE


class Pair:
    """Two threads that sum and gather tensors as two processes do."""

    def __init__(self) -> None:
        self.barrier = Barrier(2, timeout=30)
        self.given: list[Tensor] = [torch.empty(0)] * 2

    def exchange(self, rank: int, tensor: Tensor) -> list[Tensor]:
        self.given[rank] = tensor
        self.barrier.wait()
        both = list(self.given)
        self.barrier.wait()
        return both


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_two_processes_learn_what_one_learns_from_all_their_tokens(update: str) -> None:
    pair = Pair()
    torch.manual_seed(3)
    inputs, gradient = torch.randn(6, 5, 2), torch.randn(6, 5, 2)

    def learn(quantizer: AlignedVQ, updater: CodebookUpdater, own: slice) -> dict[str, Tensor]:
        for step in range(6):
            part = inputs[own]
            choice = StageChoice(quantizer.codebooks.stage(0).encode(part), None, part)
            updater.update(
                [choice], (0,), LatentSensitivity(gradient[own], part), step, generator()
            )
        return quantizer.state_dict() | updater.state_dict()

    def process(rank: int, revive_every: int) -> tuple[AlignedVQ, CodebookUpdater, slice]:
        quantizer, updater = updater_of(
            (8,), update=update, revive_every=revive_every, revive_below=0.4
        )
        updater._total = lambda t: sum(pair.exchange(rank, t), torch.zeros_like(t))
        updater._gather = lambda t: torch.cat(pair.exchange(rank, t))
        return quantizer, updater, slice(rank, None, 2)

    alone = learn(*updater_of((8,), update=update, revive_every=0), slice(None))
    for revive_every in (3, 0):
        processes = [process(rank, revive_every) for rank in range(2)]
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda given: learn(*given), processes)
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    # Without revival, which depends on how the latents were shared out.
    assert all(torch.allclose(t, first[name], atol=1e-4) for name, t in alone.items())


def test_figures_tell_perplexity_and_dead_entries() -> None:
    _, updater = updater_of((4, 8), revive_below=0.1)
    state_of(updater, 0).seen.copy_(torch.tensor([5.0, 5.0, 0.0, 0.0]))
    state_of(updater, 1).seen.fill_(3.0)
    figures = updater.figures()
    assert math.isclose(figures["perplexity/0"], 2, rel_tol=1e-4)
    assert math.isclose(figures["perplexity/1"], 8, rel_tol=1e-4)
    assert figures["dead/0"] == 0.5
    assert figures["dead/1"] == 0
